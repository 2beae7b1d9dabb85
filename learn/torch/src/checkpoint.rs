use std::{collections::HashMap, fs, io::Write, path::Path};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

/// The one file of a learner's checkpoint.
pub(crate) const FILE: &str = "learner.safetensors";
const KEY: &str = "flywheel.learner";
/// Written into every checkpoint; a newer one is refused rather than misread.
const FORMAT: u32 = 1;

/// Everything that decides the learner's next steps.
#[derive(Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) head: StateHead,
    pub(crate) parameters: Vec<f32>,
    pub(crate) target: Vec<f32>,
    pub(crate) m: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StateHead {
    pub(crate) format: u32,
    pub(crate) network: flywheel_policy::NetworkSpec,
    pub(crate) steps: u64,
    pub(crate) learning_rate: f64,
}

impl StateHead {
    pub(crate) fn new(network: flywheel_policy::NetworkSpec, steps: u64, learning_rate: f64) -> Self {
        Self { format: FORMAT, network, steps, learning_rate }
    }
}

pub(crate) fn write(dir: &Path, state: &State) -> Result<(), String> {
    let bytes = |numbers: &[f32]| -> Vec<u8> { numbers.iter().flat_map(|number| number.to_le_bytes()).collect() };
    let parts = [
        ("parameters", bytes(&state.parameters)),
        ("target", bytes(&state.target)),
        ("adam.m", bytes(&state.m)),
        ("adam.v", bytes(&state.v)),
    ];
    let views = parts
        .iter()
        .map(|(name, bytes)| Ok((*name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| error.to_string())?;
    let head = serde_json::to_string(&state.head).map_err(|error| error.to_string())?;
    let metadata = HashMap::from([(KEY.to_owned(), head)]);
    let whole = safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())?;
    // A temporary name, then fsync, then rename: a reader finds the old file or the whole new one.
    let (path, temporary) = (dir.join(FILE), dir.join(format!("{FILE}.tmp")));
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&whole)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|error| format!("writing `{FILE}`: {error}"))
}

pub(crate) fn read(dir: &Path) -> Result<State, String> {
    let path = dir.join(FILE);
    let whole = fs::read(&path).map_err(|error| format!("reading `{FILE}`: {error}"))?;
    let bad = |what: String| format!("`{FILE}` is not whole: {what}");
    let (_, metadata) = SafeTensors::read_metadata(&whole).map_err(|error| bad(error.to_string()))?;
    let head = metadata.metadata().as_ref().and_then(|map| map.get(KEY)).ok_or_else(|| bad(format!("no `{KEY}`")))?;
    let head: StateHead = serde_json::from_str(head).map_err(|error| bad(format!("`{KEY}`: {error}")))?;
    if head.format != FORMAT {
        return Err(bad(format!("format {} is unknown, this program reads {FORMAT}", head.format)));
    }
    let tensors = SafeTensors::deserialize(&whole).map_err(|error| bad(error.to_string()))?;
    let numbers = |name: &str| -> Result<Vec<f32>, String> {
        let view = tensors.tensor(name).map_err(|error| bad(format!("`{name}`: {error}")))?;
        if view.dtype() != Dtype::F32 {
            return Err(bad(format!("`{name}` holds {:?}, expected F32", view.dtype())));
        }
        let (numbers, _) = view.data().as_chunks::<4>();
        let numbers: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if numbers.iter().all(|number| number.is_finite()) {
            Ok(numbers)
        } else {
            Err(bad(format!("`{name}` holds numbers that are not finite")))
        }
    };
    Ok(State {
        parameters: numbers("parameters")?,
        target: numbers("target")?,
        m: numbers("adam.m")?,
        v: numbers("adam.v")?,
        head,
    })
}
