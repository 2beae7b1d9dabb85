//! Files from outside: each wrong one is refused by a message that names what is wrong.

use std::collections::HashMap;

use proptest::prelude::*;
use safetensors::{
    Dtype::{self, F16, F32},
    tensor::TensorView,
};

use super::evaluation::spec;
use crate::{MAX_HEADER_BYTES, Network, NetworkSpec, PolicyError, SPEC_KEY, Tensor};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_network_survives_its_file(spec in spec(), seed: u64) {
        let network = Network::he(&spec, seed).unwrap();
        let bytes = network.to_safetensors();
        let back = Network::from_safetensors(&bytes).unwrap();
        prop_assert_eq!(&back, &network);
        prop_assert_eq!(back.to_safetensors(), bytes);
    }

    #[test]
    fn a_damaged_file_never_panics(cut in 0usize..3000, at in 0usize..3000, byte: u8) {
        let mut bytes = Network::random(&NetworkSpec::new(5, [7], 3), 1, 0.1).unwrap().to_safetensors();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut);
        let _any_answer = Network::from_safetensors(&bytes);
    }

    #[test]
    fn any_bytes_with_a_plausible_length_never_panic(header in "[\\{\\}\\[\\]:,\"a-z0-9_ ]{0,80}", tail in prop::collection::vec(any::<u8>(), 0..64)) {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &tail].concat();
        prop_assert!(Network::from_safetensors(&bytes).is_err());
    }
}

type Part = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn file(spec: &str, parts: &[Part]) -> Vec<u8> {
    let views =
        parts.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, Some(HashMap::from([(SPEC_KEY.to_owned(), spec.to_owned())]))).unwrap()
}

/// A file with a header that no library would write.
fn by_hand(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn malicious_files_are_refused_by_name() {
    let good = Network::random(&NetworkSpec::new(2, [], 2), 1, 0.1).unwrap().to_safetensors();
    let shape = r#"{"inputs":2,"hidden":[],"outputs":2}"#;
    let f = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (w, b) = ("layers.0.weight", "layers.0.bias");
    let bias: Part = (b, F32, vec![2], f(&[0.0; 2]));
    let weight: Part = (w, F32, vec![2, 2], f(&[0.0; 4]));
    let with = |values: [f32; 4]| file(shape, &[bias.clone(), (w, F32, vec![2, 2], f(&values))]);
    let of_shape = |spec: &str| file(spec, &[bias.clone(), weight.clone()]);
    let meta = r#""__metadata__":{"flywheel.network":"{\"inputs\":2,\"hidden\":[],\"outputs\":2}"}"#;
    let entries = |weight: &str, bias: &str| {
        let entry = |shape: &str, range: &str| format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":{range}}}"#);
        format!(r#"{{{meta},"{w}":{},"{b}":{}}}"#, entry("[2,2]", weight), entry("[2]", bias))
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "empty"),
        ("five bytes", vec![1; 5], "5 bytes long"),
        ("cut in the header", good[..good.len() / 3].to_vec(), "bytes into a header"),
        ("cut in the data", good[..good.len() - 3].to_vec(), "was it cut"),
        ("bytes behind the data", [&good[..], b"tail"].concat(), "do not end where the file ends"),
        ("zip", b"PK\x03\x04 and more bytes".to_vec(), "zip"),
        ("pickle", b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00".to_vec(), "pickle"),
        ("HDF5", b"\x89HDF\r\n\x1a\n and more".to_vec(), "HDF5"),
        ("JSON", br#"{"modelTopology":{}}"#.to_vec(), "JSON text"),
        ("header of 90 MB", [&90_000_000_u64.to_le_bytes()[..], &[b'{'; 64]].concat(), "header claims 90000000"),
        ("header of 2^64 - 1", [&u64::MAX.to_le_bytes()[..], &[b'{'; 64]].concat(), "header claims"),
        ("header not JSON", by_hand("nonsense", &[]), "header"),
        ("header not UTF-8", [&2_u64.to_le_bytes()[..], &[0xff, 0xfe]].concat(), "UTF-8"),
        ("deep header", by_hand(&"[".repeat(10_000), &[]), "header"),
        ("no shape", safetensors::serialize(Vec::<(&str, TensorView)>::new(), None).unwrap(), SPEC_KEY),
        ("shape not JSON", of_shape("linear"), SPEC_KEY),
        ("shape with a stranger", of_shape(r#"{"inputs":2,"hidden":[],"outputs":2,"run":"me"}"#), "run"),
        ("negative shape", of_shape(r#"{"inputs":-2,"hidden":[],"outputs":2}"#), SPEC_KEY),
        ("huge shape", file(r#"{"inputs":65536,"hidden":[65536],"outputs":65536}"#, &[]), "parameters"),
        (
            "a million layers",
            of_shape(&format!(r#"{{"inputs":2,"hidden":{:?},"outputs":2}}"#, vec![1; 9_999])),
            "layers",
        ),
        ("missing bias", file(shape, std::slice::from_ref(&weight)), b),
        ("transposed", file(shape, &[bias.clone(), (w, F32, vec![4, 1], f(&[0.0; 4]))]), "expected [2, 2]"),
        ("half floats", file(shape, &[bias.clone(), (w, F16, vec![2, 2], vec![0; 8])]), "F16; expected F32"),
        ("not a number", with([0.0, f32::NAN, 0.0, 0.0]), "NaN at index 1"),
        ("infinite", with([0.0, 0.0, 0.0, f32::INFINITY]), "inf at index 3"),
        ("stowaway", file(shape, &[bias.clone(), weight.clone(), ("extra", F32, vec![1], f(&[0.0]))]), "`extra`"),
        ("overlap", by_hand(&entries("[0,16]", "[8,16]"), &[0; 16]), "does not begin where the one before it ends"),
        ("hole", by_hand(&entries("[0,16]", "[24,32]"), &[0; 32]), "does not begin where the one before it ends"),
        ("beyond the end", by_hand(&entries("[0,16]", "[16,1000024]"), &[0; 24]), "disagree"),
        ("backwards", by_hand(&entries("[0,16]", "[24,16]"), &[0; 24]), "does not begin where the one before it ends"),
        (
            "overflowing shape",
            by_hand(r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, &[]),
            "overflows",
        ),
    ];
    for (what, bytes, words) in cases {
        let error = Network::from_safetensors(&bytes).expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
    }
    assert!(matches!(
        Network::from_safetensors(&[&(MAX_HEADER_BYTES as u64 + 1).to_le_bytes()[..], &[0; 16]].concat()),
        Err(PolicyError::HeaderTooLarge { .. })
    ));
    Network::from_safetensors(&by_hand(&entries("[0,16]", "[16,24]"), &[0; 24])).unwrap();
}

#[test]
fn a_flipped_bit_in_a_weight_is_another_network_or_none() {
    let network = Network::he(&NetworkSpec::new(4, [6], 3), 3).unwrap();
    let good = network.to_safetensors();
    let data = good.len() - 4 * network.spec().parameters();
    for at in data..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(found) = Network::from_safetensors(&bytes) {
                assert_ne!(found.to_safetensors(), good);
            }
        }
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let spec = NetworkSpec::new(2, [3], 1);
    let good = || Network::he(&spec, 1).unwrap().into_tensors();
    let refused = |change: &dyn Fn(&mut Vec<Tensor>), words: &str| {
        let mut tensors = good();
        change(&mut tensors);
        let error = Network::from_tensors(&spec, tensors).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&|t| drop(t.pop()), "`layers.1.bias` is missing; expected shape [1]");
    refused(&|t| t[0].data.truncate(5), "`layers.0.weight` has 5 numbers; its shape [3, 2] needs 6");
    refused(&|t| t[1].shape = vec![1, 3], "`layers.0.bias` has shape [1, 3]; expected [3]");
    refused(&|t| t[2].data[1] = f32::NEG_INFINITY, "`layers.1.weight` holds -inf at index 1");
    refused(&|t| t.push(t[0].clone()), "`layers.0.weight` does not belong");
    let mut shuffled = good();
    shuffled.reverse();
    assert_eq!(Network::from_tensors(&spec, shuffled).unwrap(), Network::he(&spec, 1).unwrap());
}
