use std::collections::HashMap;

use proptest::prelude::*;

use crate::{Head, MAX_HEADER_BYTES, Network, NetworkSpec, PolicyError, SPEC_KEY, Scratch, argmax};

/// The obvious evaluation in double precision.
fn naive(network: &Network, x: &[f32]) -> Vec<f64> {
    let tensors: HashMap<_, _> = network.tensors().map(|(name, _, values)| (name, values.to_vec())).collect();
    let call = |name: &str, x: &[f64]| -> Vec<f64> {
        let (w, b) = (&tensors[&format!("{name}.weight")], &tensors[&format!("{name}.bias")]);
        let dot = |o: usize| x.iter().zip(&w[o * x.len()..]).map(|(x, w)| x * f64::from(*w)).sum::<f64>();
        b.iter().enumerate().map(|(o, b)| f64::from(*b) + dot(o)).collect()
    };
    let spec = network.spec();
    let mut x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    for i in 0..spec.hidden.len() {
        x = call(&format!("layers.{i}"), &x).into_iter().map(|v| v.max(0.0)).collect();
    }
    match spec.head {
        Head::Plain => call(&format!("layers.{}", spec.hidden.len()), &x),
        Head::Dueling => {
            let (v, a) = (call("value", &x)[0], call("advantage", &x));
            let mean = a.iter().sum::<f64>() / a.len() as f64;
            a.into_iter().map(|a| v + a - mean).collect()
        }
    }
}

fn spec() -> impl Strategy<Value = NetworkSpec> {
    (1usize..70, prop::collection::vec(1usize..50, 0..3), 1usize..40, any::<bool>()).prop_map(|(i, hidden, o, dueling)| {
        let spec = NetworkSpec::new(i, hidden, o);
        if dueling { spec.dueling() } else { spec }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn answers_agree_with_double_precision_and_do_not_depend_on_the_batch(spec in spec(), seed: u64, n in 1usize..20) {
        let network = Network::random(&spec, seed, 0.3);
        let inputs: Vec<f32> = (0..n * spec.inputs).map(|i| ((i as f32 * 0.37 + seed as u8 as f32).sin()) * 2.0).collect();
        let (mut batch, mut scratch) = (vec![0.0; n * spec.outputs], Scratch::default());
        network.evaluate(&inputs, &mut batch, &mut scratch);
        for (row, x) in batch.chunks(spec.outputs).zip(inputs.chunks(spec.inputs)) {
            let mut alone = vec![0.0; spec.outputs];
            network.evaluate(x, &mut alone, &mut scratch);
            prop_assert!(row.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()));
            for (a, b) in row.iter().zip(naive(&network, x)) {
                prop_assert!((f64::from(*a) - b).abs() <= 1e-4 * (1.0 + b.abs()), "{a} {b}");
            }
        }
    }

    #[test]
    fn a_network_survives_its_file(spec in spec(), seed: u64) {
        let network = Network::random(&spec, seed, 0.1);
        let bytes = network.to_safetensors();
        let back = Network::from_safetensors(&bytes).unwrap();
        prop_assert_eq!(&back, &network);
        prop_assert_eq!(back.to_safetensors(), bytes);
    }

    #[test]
    fn damaged_files_never_panic(cut in 0usize..3000, at in 0usize..3000, byte: u8) {
        let mut bytes = Network::random(&NetworkSpec::new(5, [7], 3), 1, 0.1).to_safetensors();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut);
        let _any_answer = Network::from_safetensors(&bytes);
    }
}

fn file(spec: &str, tensors: &[(&str, safetensors::Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (*name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, Some(HashMap::from([(SPEC_KEY.to_owned(), spec.to_owned())]))).unwrap()
}

#[test]
fn malicious_files_are_refused_by_name() {
    use safetensors::Dtype::{F16, F32};
    let good = Network::random(&NetworkSpec::new(2, [], 2), 1, 0.1).to_safetensors();
    let shape = r#"{"inputs":2,"hidden":[],"outputs":2}"#;
    let f = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (w, b) = ("layers.0.weight", "layers.0.bias");
    let bias = (b, F32, vec![2], f(&[0.0; 2]));
    let weight = (w, F32, vec![2, 2], f(&[0.0; 4]));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "0 bytes long"),
        ("cut in half", good[..good.len() / 2].to_vec(), "not a safetensors"),
        ("zip", b"PK\x03\x04 and more bytes".to_vec(), "zip or pickle"),
        ("pickle", b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00".to_vec(), "zip or pickle"),
        ("header of 90 MB", [&90_000_000u64.to_le_bytes()[..], &[b'{'; 64]].concat(), "header claims"),
        ("header not JSON", [&8u64.to_le_bytes()[..], b"nonsense"].concat(), "not a safetensors"),
        ("no shape", safetensors::serialize(Vec::<(&str, safetensors::tensor::TensorView)>::new(), None).unwrap(), SPEC_KEY),
        ("huge shape", file(r#"{"inputs":65536,"hidden":[65536],"outputs":65536}"#, &[]), "parameters"),
        ("missing bias", file(shape, &[weight.clone()]), b),
        ("wrong shape", file(shape, &[bias.clone(), (w, F32, vec![4, 1], f(&[0.0; 4]))]), w),
        ("half floats", file(shape, &[bias.clone(), (w, F16, vec![2, 2], vec![0; 8])]), "F16"),
        ("not a number", file(shape, &[bias.clone(), (w, F32, vec![2, 2], f(&[0.0, f32::NAN, 0.0, 0.0]))]), "NaN"),
        ("infinite", file(shape, &[bias.clone(), (w, F32, vec![2, 2], f(&[f32::INFINITY, 0.0, 0.0, 0.0]))]), "inf"),
        ("stowaway", file(shape, &[bias, weight, ("extra", F32, vec![1], f(&[0.0]))]), "extra"),
    ];
    for (what, bytes, words) in cases {
        let error = Network::from_safetensors(&bytes).expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
    }
    assert!(matches!(
        Network::from_safetensors(&[&(MAX_HEADER_BYTES as u64 + 1).to_le_bytes()[..], &[0; 16]].concat()),
        Err(PolicyError::HeaderTooLarge { .. })
    ));
}

#[test]
fn the_lowest_index_wins_ties_and_nan_never_wins() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    assert_eq!(argmax(&[f32::NAN, -5.0, f32::NAN]), 1);
    assert_eq!(argmax(&[0.0; 10]), 0);
}
