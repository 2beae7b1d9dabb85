//! What checkpoints must do, wherever they lie.

use flywheel_train::{Beat, TrainError};

use crate::{Ground, fixed, places, support::Memory};

fn everywhere(case: impl Fn(Ground)) {
    let (places, _servers) = places();
    for place in places {
        case(Ground::new(place));
    }
}

#[test]
fn a_run_that_goes_on_on_other_machines_has_the_loss_curve_of_one_that_was_not_disturbed() {
    everywhere(|mut ground| {
        let whole = ground.undisturbed(240);
        let mut parts = Vec::new();
        // Each machine but the third begins with an empty folder.
        for (machine, until) in [("a", 70), ("b", 71), ("a", 150), ("c", 240)] {
            parts.extend(ground.learn(machine, until));
        }
        assert_eq!(whole, parts);
    });
}

#[test]
fn a_run_killed_between_checkpoints_repeats_the_steps_it_lost_on_another_machine() {
    everywhere(|mut ground| {
        let whole = ground.undisturbed(120);
        ground.learn("a", 40);
        // Fenced at its next checkpoint: it has learned on, and nothing of that is kept.
        let host = Memory { fenced_at_checkpoint: true, ..Memory::new(|_| Beat::Continue) };
        let handle = ground.world.handle();
        let mut session = ground.session("b", &fixed(90), host).unwrap();
        assert!(matches!(session.run(&handle, |_| {}), Err(TrainError::Fenced)));
        assert_eq!(whole[40..], ground.learn("c", 120));
    });
}

#[test]
fn a_checkpoint_cut_changed_or_incomplete_is_named_and_the_one_before_is_taken() {
    everywhere(|mut ground| {
        let whole = ground.undisturbed(60);
        ground.learn("a", 30);
        ground.learn("a", 60);
        let cut = |bytes: &[u8]| Some(bytes[..bytes.len() / 2].to_vec());
        let flipped = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            Some(bytes)
        };
        type How<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;
        for file in ["linear.json", "priorities.f32", "trainer.json"] {
            let hows: [(How<'_>, &str); 3] = [(&cut, "cut"), (&flipped, "changed"), (&|_| None, "")];
            for (n, (how, telling)) in hows.into_iter().enumerate() {
                // The folder's own list of files has no check of itself but its form.
                if file == "trainer.json" && n == 1 {
                    continue;
                }
                let mend = ground.damage(60, file, how);
                let (newest, passed) = ground.open(&format!("{file}-{n}")).newest().unwrap();
                assert_eq!(newest.unwrap().state.steps, 30);
                let said = passed[0].to_string();
                for word in ["step-000000000060", file, telling] {
                    assert!(said.contains(word), "{word}: {said}");
                }
                mend();
                assert_eq!(ground.open(&format!("{file}-{n}-whole")).newest().unwrap().0.unwrap().state.steps, 60);
            }
        }
        let mend = ground.damage(60, "linear.json", cut);
        drop(mend);
        assert_eq!(whole[30..], ground.learn("b", 60), "the steps since are done again");
    });
}

#[test]
fn what_is_damaged_pushes_out_none_that_is_whole() {
    everywhere(|mut ground| {
        let whole = ground.undisturbed(50);
        let cut = |bytes: &[u8]| Some(bytes[..bytes.len() / 2].to_vec());
        ground.learn("a", 30);
        ground.learn("a", 60);
        drop(ground.damage(60, "linear.json", cut));
        // The next machine goes on from 30, and what it stores is damaged too.
        assert_eq!(ground.learn("b", 45), whole[30..45]);
        drop(ground.damage(45, "linear.json", cut));
        let (newest, passed) = ground.open("c").newest().unwrap();
        assert_eq!(newest.unwrap().state.steps, 30);
        assert!(!passed.is_empty());
    });
}

#[test]
fn the_newest_two_stay_and_what_killed_writers_left_goes() {
    everywhere(|mut ground| {
        for until in [10, 20, 30, 40, 50] {
            ground.learn("a", until);
        }
        assert_eq!(ground.kept("a"), ["step-000000000040", "step-000000000050"]);
        ground.leave_half_of_a_checkpoint("a", 60);
        assert_eq!(ground.kept("a").len(), 3);
        assert_eq!(ground.open("a").newest().unwrap().0.unwrap().state.steps, 50);
        assert_eq!(ground.kept("a"), ["step-000000000040", "step-000000000050"]);
    });
}
