//! The model store's two forms, there and back, and what is refused.

use proptest::prelude::*;

use super::evaluation::{naive, rows};
use crate::{Network, NetworkSpec, PolicyError, Scratch, StoreForm};

type Listed = Vec<(String, Vec<usize>, String)>;

fn listed(form: StoreForm) -> Listed {
    form.tensors().into_iter().map(|(name, shape)| (name.to_owned(), shape, "float32".to_owned())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_network_survives_its_store_form(
        inputs in 1usize..40, hidden in prop::option::of(1usize..40), outputs in 1usize..12, dueling: bool, seed: u64,
    ) {
        let spec = NetworkSpec::new(inputs, hidden.into_iter().collect::<Vec<_>>(), outputs);
        let spec = if dueling { spec.dueling() } else { spec };
        let network = Network::he(&spec, seed).unwrap();
        let (form, data) = StoreForm::write(&network).unwrap();
        prop_assert_eq!(form.name(), if hidden.is_some() { "mlp-q" } else { "linear-q" });
        let back = form.read(&listed(form), &data).unwrap();
        if !dueling {
            prop_assert_eq!(&back, &network);
        }
        let state = rows(1, inputs, seed);
        let mut values = vec![0.0; outputs];
        back.evaluate(&state, &mut values, &mut Scratch::new());
        for (&a, b) in values.iter().zip(naive(&network, &state)) {
            prop_assert!((f64::from(a) - b).abs() <= 1e-4 * (1.0 + b.abs()), "{} against {}", a, b);
        }
    }
}

#[test]
fn the_forms_are_as_the_specification_says() {
    let linear = StoreForm::LinearQ { state_size: 108, action_size: 10 };
    assert_eq!(linear.tensors(), [("kernel", vec![10, 108]), ("bias", vec![10])]);
    let mlp = StoreForm::MlpQ { state_size: 108, action_size: 10, hidden_size: 64 };
    assert_eq!(mlp.tensors(), [("w1", vec![64, 108]), ("b1", vec![64]), ("w2", vec![10, 64]), ("b2", vec![10])]);
    // Row-major, little-endian, in order: a linear network's first row is its first action.
    let data: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0, 0.5, -0.5].iter().flat_map(|v| v.to_le_bytes()).collect();
    let form = StoreForm::LinearQ { state_size: 2, action_size: 2 };
    let network = form.read(&listed(form), &data).unwrap();
    assert_eq!(network.tensors()[0].data, [1.0, 2.0, 3.0, 4.0]);
    let mut q = [0.0; 2];
    network.evaluate(&[1.0, 10.0], &mut q, &mut Scratch::new());
    assert_eq!(q, [21.5, 42.5]);
}

#[test]
fn a_payload_that_does_not_fit_is_refused_in_the_senders_words() {
    let form = StoreForm::MlpQ { state_size: 3, action_size: 2, hidden_size: 4 };
    let network = Network::he(&form.spec(), 1).unwrap();
    let (_, data) = StoreForm::write(&network).unwrap();
    let refused = |form: StoreForm, listed: &Listed, data: &[u8], words: &str| {
        let error = form.read(listed, data).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let good = listed(form);
    let with = |change: &dyn Fn(&mut Listed)| {
        let mut listed = good.clone();
        change(&mut listed);
        listed
    };
    refused(form, &with(&|l| l[0].2 = "int8".into()), &data, "`w1` holds `int8`");
    refused(form, &with(&|l| l[1].1 = vec![5]), &data, "`b1` has shape [5]; expected [4]");
    refused(form, &with(&|l| l.swap(0, 2)), &data, "`w1 (in place 0)` is missing");
    refused(form, &with(&|l| drop(l.pop())), &data, "`b2 (in place 3)` is missing");
    refused(form, &with(&|l| l[3].0 = "evil".into()), &data, "`evil` does not belong");
    refused(form, &with(&|l| l.push(l[0].clone())), &data, "`weightData`");
    refused(form, &good, &data[..data.len() - 4], "`weightData` has 25 numbers");
    refused(form, &good, &data[..data.len() - 1], "`weightData`");
    let mut nan = data.clone();
    nan[4 * (3 * 4 + 4)..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(form, &good, &nan, "`w2` holds NaN at index 0");
    let huge = StoreForm::LinearQ { state_size: usize::MAX, action_size: 2 };
    refused(huge, &good, &data, "`inputs` is");
    let deep = Network::he(&NetworkSpec::new(3, [4, 4], 2), 1).unwrap();
    assert!(matches!(StoreForm::write(&deep), Err(PolicyError::NoStoreForm { .. })));
}
