use super::*;

fn lines(n: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    n.map(|n| format!("{{{n}}}").into_bytes()).collect()
}

fn slices(lines: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    lines.iter().map(Vec::as_slice)
}

/// Everything that waits, one event at a time.
fn drain(spool: &mut Spool) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let (data, n) = spool.peek(1, 1).unwrap();
        if n == 0 {
            return all;
        }
        all.push(String::from_utf8(data[..data.len() - 1].to_vec()).unwrap());
        spool.drop_front(data.len() as u64).unwrap();
    }
}

fn text(lines: &[Vec<u8>]) -> Vec<String> {
    lines.iter().map(|line| String::from_utf8(line.clone()).unwrap()).collect()
}

#[test]
fn a_spool_torn_anywhere_keeps_every_whole_event() {
    let folder = tempfile::tempdir().unwrap();
    let whole: Vec<u8> = lines(0..20).into_iter().flat_map(|line| [line, b"\n".to_vec()].concat()).collect();
    for cut in 0..=whole.len() {
        let path = folder.path().join(format!("spool-{cut}"));
        fs::write(&path, &whole[..cut]).unwrap();
        let mut spool = Spool::open(&path, 1 << 20).unwrap();
        let kept = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
        assert!(spool.append([b"{new}".as_slice()]));
        drop(spool);
        let mut spool = Spool::open(&path, 1 << 20).unwrap();
        assert_eq!(drain(&mut spool), [text(&lines(0..kept)), vec!["{new}".to_owned()]].concat(), "cut at {cut}");
    }
}

#[test]
fn what_was_acknowledged_is_not_taken_again_after_a_restart_and_batches_keep_to_their_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let all = lines(0..100);
    let mut spool = Spool::open(&path, 1 << 20).unwrap();
    assert!(spool.append(slices(&all)));
    let (data, n) = spool.peek(7, 1 << 20).unwrap();
    assert_eq!((data.as_slice(), n), (b"{0}\n{1}\n{2}\n{3}\n{4}\n{5}\n{6}\n".as_slice(), 7));
    spool.drop_front(data.len() as u64).unwrap();
    drop(spool);
    let mut spool = Spool::open(&path, 1 << 20).unwrap();
    let (data, n) = spool.peek(1_000, 10).unwrap();
    assert_eq!((data.as_slice(), n), (b"{7}\n{8}\n".as_slice(), 2), "the third would be longer than 10 bytes");
    assert_eq!(drain(&mut spool), text(&all[7..]));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "an empty spool takes no space");
}

#[test]
fn a_note_of_an_earlier_file_is_never_believed_of_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    // Cut to nothing by a process that died before it wrote the note.
    fs::write(beside(&path, ".done"), "8").unwrap();
    fs::write(&path, "").unwrap();
    let mut spool = Spool::open(&path, 1 << 20).unwrap();
    assert!(spool.append(slices(&lines(0..10))));
    drop(spool);
    assert_eq!(drain(&mut Spool::open(&path, 1 << 20).unwrap()), text(&lines(0..10)));
    // One that lies in the middle of a line belongs to another file too.
    fs::write(&path, "{first}\n{second}\n").unwrap();
    fs::write(beside(&path, ".done"), "3").unwrap();
    assert_eq!(drain(&mut Spool::open(&path, 1 << 20).unwrap()), ["{first}", "{second}"]);
}

#[test]
fn older_events_are_put_before_what_is_spooled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let mut spool = Spool::open(&path, 100).unwrap();
    assert!(spool.append(slices(&lines(3..9))));
    spool.drop_front(4).unwrap();
    assert!(spool.prepend(slices(&lines(0..3))));
    let long = vec![b'x'; 200];
    assert!(!spool.prepend([long.as_slice()]), "the limit holds here too");
    assert!(Spool::open(&path, 100).is_err(), "the new file is locked as the old one was");
    assert!(spool.append(slices(&lines(9..10))));
    drop(spool);
    let left = [lines(0..3), lines(4..10)].concat();
    assert_eq!(drain(&mut Spool::open(&path, 100).unwrap()), text(&left));
}

#[test]
fn an_acknowledgement_of_lines_that_somebody_cut_away_is_not_taken_for_later_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let mut spool = Spool::open(&path, 1 << 20).unwrap();
    assert!(spool.append(slices(&lines(0..9))));
    let (sent, _) = spool.peek(9, 1 << 20).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    // It is this that sees the cut.
    assert!(spool.append(slices(&lines(10..13))));
    spool.drop_front(sent.len() as u64).unwrap();
    assert!(spool.pending() > 0);
    assert_eq!(drain(&mut spool), text(&lines(10..13)));
}

#[test]
fn a_spool_is_bounded_and_belongs_to_one_emitter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let mut spool = Spool::open(&path, 25).unwrap();
    assert!(spool.append([b"123456789".as_slice(); 2]));
    assert!(!spool.append([b"123456789".as_slice()]));
    assert!(spool.append([b"1234".as_slice()]));
    let error = Spool::open(&path, 25).unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::Spool);
    assert!(error.to_string().contains("in use by another emitter"), "{error}");
}

#[test]
fn what_is_acknowledged_takes_no_room_from_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let mut spool = Spool::open(&path, 1000).unwrap();
    let line = |n: u64| format!("{n:099}").into_bytes();
    (0..9).for_each(|n| assert!(spool.append([line(n).as_slice()])));
    // Never empty, and never more than nine tenths full.
    for n in 9..500 {
        let (data, taken) = spool.peek(1, 1).unwrap();
        assert_eq!((data, taken), ([line(n - 9), b"\n".to_vec()].concat(), 1));
        spool.drop_front(100).unwrap();
        assert!(spool.append([line(n).as_slice()]), "event {n} was not taken");
        assert!(fs::metadata(&path).unwrap().len() <= 1250, "the file is a quarter longer at most");
    }
    assert!(spool.append([line(500).as_slice()]));
    assert!(!spool.append([line(501).as_slice()]), "ten wait: it is full");
    drop(spool);
    let left: Vec<_> = (491..=500).map(line).collect();
    assert_eq!(drain(&mut Spool::open(&path, 1000).unwrap()), text(&left));
}

#[test]
fn a_long_front_that_is_acknowledged_gives_its_disk_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let mut spool = Spool::open(&path, 1 << 30).unwrap();
    let line = vec![b'x'; (64 << 10) - 1];
    assert!(spool.append(std::iter::repeat_n(line.as_slice(), 100)));
    for _ in 0..80 {
        spool.drop_front(64 << 10).unwrap();
    }
    assert_eq!(spool.pending(), 20 * (64 << 10));
    assert!(fs::metadata(&path).unwrap().len() < CUT_FROM_BYTES, "four MiB and more were acknowledged");
    assert!(Spool::open(&path, 1 << 30).is_err(), "the new file is locked as the old one was");
    drop(spool);
    assert_eq!(drain(&mut Spool::open(&path, 1 << 30).unwrap()).len(), 20);
}

#[test]
fn a_file_that_somebody_cuts_is_read_on_from_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let cut = |n: u64| OpenOptions::new().write(true).open(&path).unwrap().set_len(n).unwrap();
    let mut spool = Spool::open(&path, 1 << 20).unwrap();
    assert!(spool.append(slices(&lines(0..9))));
    spool.drop_front(8).unwrap();
    cut(18);
    assert_eq!(drain(&mut spool), text(&lines(2..4)), "the fifth was cut in two");
    // To nothing, with a note of how much was acknowledged; then written to before it is read.
    assert!(spool.append(slices(&lines(0..9))));
    spool.drop_front(8).unwrap();
    cut(0);
    assert!(spool.append(slices(&lines(5..9))));
    assert_eq!(drain(&mut spool), text(&lines(5..9)));
    // Between reading and the acknowledgement.
    assert!(spool.append(slices(&lines(0..3))));
    let (data, _) = spool.peek(3, 100).unwrap();
    cut(0);
    spool.drop_front(data.len() as u64).unwrap();
    assert_eq!((spool.pending(), spool.peek(1, 1).unwrap()), (0, (Vec::new(), 0)));
}
