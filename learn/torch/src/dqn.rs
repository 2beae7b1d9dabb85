use std::path::Path;

use flywheel_policy::{LearnError, LearnErrorKind, Learner, Network, StepReport, Tensor as NamedTensor, TrainingBatch};
use tch::{Device, Kind, Tensor};

use crate::{
    Adam, DoubleDqnLoss, DqnConfig, Layout, adam_step,
    checkpoint::{self, State, StateHead},
    fused::{add_bias, mask_and_sum},
    open_device, square_sum,
};

/// A double DQN on libtorch, on one thread of a CPU or on one GPU.
///
/// On a CPU the same batches give the same bits, also after [`Learner::save`] and [`Learner::load`].
#[derive(Debug)]
pub struct TorchDqn {
    config: DqnConfig,
    layout: Layout,
    device: Device,
    online: Parameters,
    target: Parameters,
    gradient: Parameters,
    m: Tensor,
    v: Tensor,
    adam: Adam,
    loss: DoubleDqnLoss,
    steps: u64,
    work: Option<Work>,
    /// Host side of the outputs and of their gradient.
    online_out: Vec<f32>,
    target_out: Vec<f32>,
    gradient_out: Vec<f32>,
}

/// One flat tensor and each layer's part of it.
#[derive(Debug)]
struct Parameters {
    flat: Tensor,
    layers: Vec<View>,
}

#[derive(Debug)]
struct View {
    weight: Tensor,
    /// `weight` transposed, without a copy.
    transposed: Tensor,
    bias: Tensor,
}

impl Parameters {
    fn new(flat: Tensor, layout: &Layout) -> Result<Self, LearnError> {
        let layers = layout
            .layers
            .iter()
            .map(|layer| {
                let (inputs, outputs) = (layer.inputs as i64, layer.outputs as i64);
                let weight = flat.f_narrow(0, layer.weight as i64, inputs * outputs).map_err(torch)?;
                let weight = weight.f_view([outputs, inputs]).map_err(torch)?;
                Ok(View {
                    transposed: weight.f_tr().map_err(torch)?,
                    weight,
                    bias: flat.f_narrow(0, layer.bias as i64, outputs).map_err(torch)?,
                })
            })
            .collect::<Result<_, LearnError>>()?;
        Ok(Self { flat, layers })
    }

    fn zeros(layout: &Layout, device: Device) -> Result<Self, LearnError> {
        Self::new(zeros(&[layout.len as i64], device)?, layout)
    }
}

/// Buffers for one batch size, reused from step to step.
#[derive(Debug)]
struct Work {
    n: usize,
    /// `[2n, inputs]`: the rows of `s`, then those of `s2`.
    input: Tensor,
    /// The rows of `s2`.
    input_next: Tensor,
    /// Each layer's outputs `[2n, outputs]`.
    online: Vec<Tensor>,
    /// The rows of `s` of each layer's inputs.
    inputs_now: Vec<Tensor>,
    /// Each layer's outputs `[n, outputs]` by the target network.
    target: Vec<Tensor>,
    /// Gradient by each hidden layer's outputs, `[n, outputs]`.
    back: Vec<Tensor>,
    /// Host side of `input` where the device is not the CPU.
    staging: Vec<f32>,
}

impl Work {
    fn new(n: usize, layout: &Layout, device: Device) -> Result<Self, LearnError> {
        let rows = n as i64;
        let input = zeros(&[2 * rows, layout.layers[0].inputs as i64], device)?;
        let outputs = |rows: i64| -> Result<Vec<Tensor>, LearnError> {
            layout.layers.iter().map(|layer| zeros(&[rows, layer.outputs as i64], device)).collect()
        };
        let online = outputs(2 * rows)?;
        let inputs_now = std::iter::once(&input)
            .chain(&online)
            .take(layout.layers.len())
            .map(|tensor| tensor.f_narrow(0, 0, rows).map_err(torch))
            .collect::<Result<_, _>>()?;
        let mut back = outputs(rows)?;
        back.pop();
        let staging = if device == Device::Cpu { Vec::new() } else { vec![0.0; 2 * n * layout.layers[0].inputs] };
        Ok(Self {
            n,
            input_next: input.f_narrow(0, rows, rows).map_err(torch)?,
            input,
            online,
            inputs_now,
            target: outputs(rows)?,
            back,
            staging,
        })
    }

    fn load(&mut self, batch: &TrainingBatch) -> Result<(), LearnError> {
        let half = batch.s.len();
        if self.staging.is_empty() {
            let input = host_slice(&mut self.input);
            input[..half].copy_from_slice(&batch.s);
            input[half..].copy_from_slice(&batch.s2);
            return Ok(());
        }
        self.staging[..half].copy_from_slice(&batch.s);
        self.staging[half..].copy_from_slice(&batch.s2);
        let staged = Tensor::f_from_slice(&self.staging).map_err(torch)?;
        let staged = staged.f_view_as(&self.input).map_err(torch)?;
        self.input.f_copy_(&staged).map_err(torch)
    }
}

fn zeros(shape: &[i64], device: Device) -> Result<Tensor, LearnError> {
    Tensor::f_zeros(shape, (Kind::Float, device)).map_err(torch)
}

fn torch(error: tch::TchError) -> LearnError {
    LearnError::new(LearnErrorKind::Internal, "computing on libtorch", error)
}

/// An operation that wrote into a tensor hands that tensor back as well; nobody needs it.
fn done(result: Result<Tensor, tch::TchError>) -> Result<(), LearnError> {
    result.map(drop).map_err(torch)
}

/// The numbers of a contiguous CPU tensor of `f32`.
fn host_slice(tensor: &mut Tensor) -> &mut [f32] {
    debug_assert!(tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous());
    // SAFETY: a contiguous CPU tensor of f32 holds `numel` of them at `data_ptr`, and lives as long as the borrow.
    // Views of the same storage exist, but no operation runs on them while this slice is in use.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// As [`host_slice`], to read.
fn host_view(tensor: &Tensor) -> &[f32] {
    debug_assert!(tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous());
    // SAFETY: as in `host_slice`; nothing writes to it while it is borrowed.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// `relu(x W^T + b)` through all layers but the last, which has no ReLU.
fn forward(input: &Tensor, parameters: &Parameters, outputs: &mut [Tensor]) -> Result<(), LearnError> {
    let last = outputs.len() - 1;
    for (i, layer) in parameters.layers.iter().enumerate() {
        let (before, rest) = outputs.split_at_mut(i);
        let input = before.last().unwrap_or(input);
        if input.device() == Device::Cpu {
            // A product that adds to its output first copies the bias there and reads it back.
            done(input.f_mm_out(&rest[0], &layer.transposed))?;
            add_bias(host_slice(&mut rest[0]), host_view(&layer.bias), i < last);
            continue;
        }
        done(layer.bias.f_addmm_out(&rest[0], input, &layer.transposed))?;
        if i < last {
            done(rest[0].f_relu_())?;
        }
    }
    Ok(())
}

/// Takes a layer's gradient back through its ReLU, which gave `outputs`, and sums it over the batch.
fn by_bias(gradient: &mut Tensor, outputs: Option<&Tensor>, bias: &mut Tensor) -> Result<(), LearnError> {
    if gradient.device() == Device::Cpu {
        mask_and_sum(host_slice(gradient), outputs.map(host_view), host_slice(bias));
        return Ok(());
    }
    if let Some(outputs) = outputs {
        done(outputs.f_threshold_backward_grad_input(gradient, gradient, 0))?;
    }
    done(gradient.f_sum_intlist_out(bias, 0, false, Kind::Float))
}

impl TorchDqn {
    /// A learner with first weights drawn from `config.seed`.
    ///
    /// # Errors
    /// `DeviceAbsent` if the device cannot be had, `Internal` if the config has problems or libtorch fails.
    pub fn new(config: DqnConfig) -> Result<Self, LearnError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(LearnError::new(LearnErrorKind::Internal, "setting the learner up", problems.join("; ")));
        }
        let device = open_device(config.device)
            .map_err(|error| LearnError::new(LearnErrorKind::DeviceAbsent, "opening the device", error))?;
        let layout = Layout::new(&config.network);
        let first = upload(&layout.random(config.seed), device)?;
        let mut learner = Self {
            online: Parameters::new(first, &layout)?,
            target: Parameters::zeros(&layout, device)?,
            gradient: Parameters::zeros(&layout, device)?,
            m: zeros(&[layout.len as i64], device)?,
            v: zeros(&[layout.len as i64], device)?,
            adam: Adam::new(config.learning_rate),
            loss: DoubleDqnLoss::new(config.network.head, config.network.outputs, config.huber_delta),
            steps: 0,
            work: None,
            online_out: Vec::new(),
            target_out: Vec::new(),
            gradient_out: Vec::new(),
            device,
            layout,
            config,
        };
        learner.sync_target()?;
        Ok(learner)
    }

    /// Starts from an existing network instead of random weights.
    ///
    /// # Errors
    /// `InvalidCheckpoint` if its shape is another.
    pub fn start_from(&mut self, network: &Network) -> Result<(), LearnError> {
        if network.spec() != &self.config.network {
            let why = format!("it has shape {}, the learner {}", network.spec(), self.config.network);
            return Err(LearnError::new(LearnErrorKind::InvalidCheckpoint, "starting from a network", why));
        }
        let mut flat = vec![0.0; self.layout.len];
        // Both lists are in the order of `NetworkSpec::tensors`.
        for (tensor, (_, _, start)) in network.tensors().iter().zip(self.layout.tensors()) {
            flat[start..start + tensor.data.len()].copy_from_slice(&tensor.data);
        }
        self.online.flat.f_copy_(&upload(&flat, self.device)?).map_err(torch)?;
        self.sync_target()
    }

    pub fn config(&self) -> &DqnConfig {
        &self.config
    }

    /// `cpu` or `cuda`.
    pub fn device(&self) -> &'static str {
        if self.device == Device::Cpu { "cpu" } else { "cuda" }
    }

    pub fn learning_rate(&self) -> f64 {
        self.adam.learning_rate
    }

    /// Takes effect with the next step and is kept in checkpoints.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.adam.learning_rate = learning_rate;
    }

    fn sync_target(&mut self) -> Result<(), LearnError> {
        self.target.flat.f_copy_(&self.online.flat).map_err(torch)
    }

    fn check(&self, batch: &TrainingBatch) -> Result<(), LearnError> {
        batch.check(self.config.network.outputs)?;
        let wrong = |what: String| Err(LearnError::new(LearnErrorKind::InvalidBatch, "check the batch", what));
        match (batch.n, batch.obs_len) {
            (0, _) => wrong("it is empty".to_owned()),
            (_, found) if found != self.config.network.inputs => {
                wrong(format!("observations of {found} numbers; the network takes {}", self.config.network.inputs))
            }
            _ => Ok(()),
        }
    }

    /// Gradient by every parameter, from the gradient by the head's outputs.
    fn backward(&mut self, work: &mut Work) -> Result<(), LearnError> {
        let shape = [work.n as i64, self.layout.head_outputs() as i64];
        let mut head = upload(&self.gradient_out, self.device)?.f_view(shape).map_err(torch)?;
        let layers = &mut self.gradient.layers;
        let last = layers.len() - 1;
        by_bias(&mut head, None, &mut layers[last].bias)?;
        for i in (0..=last).rev() {
            let by_output = work.back.get(i).unwrap_or(&head).shallow_clone();
            done(by_output.f_tr().and_then(|by| by.f_mm_out(&layers[i].weight, &work.inputs_now[i])))?;
            if i > 0 {
                let below = &mut work.back[i - 1];
                done(by_output.f_mm_out(below, &self.online.layers[i].weight))?;
                by_bias(below, Some(&work.inputs_now[i]), &mut layers[i - 1].bias)?;
            }
        }
        Ok(())
    }

    /// Length of the gradient before clipping.
    fn gradient_norm(&mut self) -> Result<f64, LearnError> {
        if self.device == Device::Cpu {
            return Ok(square_sum(host_slice(&mut self.gradient.flat)).sqrt());
        }
        self.gradient.flat.f_norm().and_then(|norm| norm.f_double_value(&[])).map_err(torch)
    }

    fn optimise(&mut self, scale: f64) -> Result<(), LearnError> {
        let t = self.steps + 1;
        if self.device == Device::Cpu {
            let state = (host_slice(&mut self.online.flat), host_slice(&mut self.m), host_slice(&mut self.v));
            adam_step(&self.adam, t, scale as f32, host_slice(&mut self.gradient.flat), state);
            return Ok(());
        }
        let (rate, root) = self.adam.corrections(t);
        let g = &mut self.gradient.flat;
        if scale != 1.0 {
            done(g.f_mul_scalar_(scale))?;
        }
        done(self.m.f_lerp_(g, 1.0 - self.adam.beta1))?;
        done(self.v.f_lerp_(&g.f_square().map_err(torch)?, 1.0 - self.adam.beta2))?;
        // p -= rate * m / (sqrt(v) * root + epsilon), with -rate inside the divisor.
        let divisor = self
            .v
            .f_sqrt()
            .and_then(|mut d| d.f_mul_scalar_(-root / rate))
            .and_then(|mut d| d.f_add_scalar_(-self.adam.epsilon / rate))
            .map_err(torch)?;
        done(self.online.flat.f_addcdiv_(&self.m, &divisor))?;
        Ok(())
    }

    fn step_with(&mut self, batch: &TrainingBatch, work: &mut Work) -> Result<StepReport, LearnError> {
        let (n, width) = (batch.n, self.layout.head_outputs());
        work.load(batch)?;
        forward(&work.input, &self.online, &mut work.online)?;
        forward(&work.input_next, &self.target, &mut work.target)?;
        self.online_out.resize(2 * n * width, 0.0);
        self.target_out.resize(n * width, 0.0);
        self.gradient_out.resize(n * width, 0.0);
        let (online, target) = (work.online.last(), work.target.last());
        let (online, target) = online.zip(target).expect("a network has a last layer");
        online.f_copy_data(&mut self.online_out, 2 * n * width).map_err(torch)?;
        target.f_copy_data(&mut self.target_out, n * width).map_err(torch)?;
        let mut td_abs = Vec::with_capacity(n);
        let report = self.loss.evaluate(batch, &self.online_out, &self.target_out, &mut self.gradient_out, &mut td_abs);
        self.backward(work)?;
        let norm = self.gradient_norm()?;
        if !report.loss.is_finite() || !norm.is_finite() {
            // Nothing has been changed yet: the parameters are those of the last good step.
            let why = format!("step {} has loss {} and a gradient of length {norm}", self.steps + 1, report.loss);
            return Err(LearnError::new(LearnErrorKind::NotFinite, "stepping", why));
        }
        let scale = if norm > self.config.max_grad_norm { self.config.max_grad_norm / norm } else { 1.0 };
        self.optimise(scale)?;
        self.steps += 1;
        if self.steps.is_multiple_of(self.config.target_sync_steps) {
            self.sync_target()?;
        }
        Ok(StepReport { loss: report.loss, td_abs, q_mean: report.q_mean, grad_norm: norm as f32 })
    }
}

fn upload(numbers: &[f32], device: Device) -> Result<Tensor, LearnError> {
    Tensor::f_from_slice(numbers).and_then(|tensor| tensor.f_to_device(device)).map_err(torch)
}

fn download(tensor: &Tensor) -> Result<Vec<f32>, LearnError> {
    let mut numbers = vec![0.0; tensor.numel()];
    let len = numbers.len();
    tensor.f_copy_data(&mut numbers, len).map_err(torch)?;
    Ok(numbers)
}

fn unusable(dir: &Path, reason: String) -> LearnError {
    let why = format!("`{}`: {reason}", dir.display());
    LearnError::new(LearnErrorKind::InvalidCheckpoint, "loading the learner", why)
}

impl Learner for TorchDqn {
    fn step(&mut self, batch: &TrainingBatch) -> Result<StepReport, LearnError> {
        self.check(batch)?;
        let mut work = match self.work.take().filter(|work| work.n == batch.n) {
            Some(work) => work,
            None => Work::new(batch.n, &self.layout, self.device)?,
        };
        let report = self.step_with(batch, &mut work);
        self.work = Some(work);
        report
    }

    fn export(&self) -> Result<Network, LearnError> {
        let flat = download(&self.online.flat)?;
        let tensors = self.layout.tensors().into_iter().map(|(name, shape, start)| {
            let len = shape.iter().product::<usize>();
            NamedTensor::new(name, shape, flat[start..start + len].to_vec())
        });
        Network::from_tensors(&self.config.network, tensors.collect())
            .map_err(|error| LearnError::new(LearnErrorKind::NotFinite, "exporting the network", error))
    }

    fn save(&self, dir: &Path) -> Result<(), LearnError> {
        let state = State {
            head: StateHead::new(self.config.network.clone(), self.steps, self.adam.learning_rate),
            parameters: download(&self.online.flat)?,
            target: download(&self.target.flat)?,
            m: download(&self.m)?,
            v: download(&self.v)?,
        };
        checkpoint::write(dir, &state).map_err(|error| LearnError::new(LearnErrorKind::Io, "saving the learner", error))
    }

    fn load(&mut self, dir: &Path) -> Result<(), LearnError> {
        let state = checkpoint::read(dir).map_err(|reason| unusable(dir, reason))?;
        if state.head.network != self.config.network {
            let why = format!(
                "it is of a network of shape {}, this learner has {}; use its settings or another run",
                state.head.network, self.config.network
            );
            return Err(unusable(dir, why));
        }
        let parts = [&state.parameters, &state.target, &state.m, &state.v];
        if parts.iter().any(|part| part.len() != self.layout.len) {
            return Err(unusable(dir, "its tensors have the wrong length".to_owned()));
        }
        let tensors = [&mut self.online.flat, &mut self.target.flat, &mut self.m, &mut self.v];
        for (tensor, numbers) in tensors.into_iter().zip(parts) {
            tensor.f_copy_(&upload(numbers, self.device)?).map_err(torch)?;
        }
        self.steps = state.head.steps;
        self.adam.learning_rate = state.head.learning_rate;
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.steps
    }
}

#[cfg(test)]
mod tests;
