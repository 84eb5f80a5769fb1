//! Scenarios whose times are bounded, on machines that may be busy.

use std::{
    fs::File,
    io::Write,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use super::folder::Folder;

/// The longest time for which a thread that does nothing but write a small file now and then is
/// held up, on a machine on which a call of Redis is answered within its 250 ms: it takes some
/// threads, one after the other.
const FAIR: Duration = Duration::from_millis(20);

/// Plays a scenario whose times are bounded. If it fails on a machine that is too busy to tell, it
/// is played again, nine times at most.
pub async fn on_a_fair_machine(scenario: impl AsyncFn() -> Result<(), String>) {
    for attempt in 1.. {
        let (ends, ended) = channel::<()>();
        static CANARIES: AtomicUsize = AtomicUsize::new(0);
        let number = CANARIES.fetch_add(1, Ordering::Relaxed);
        let folder = Folder::new(&format!("canary-{number}"));
        let path = folder.0.join("file");
        let canary = std::thread::spawn(move || {
            let (nap, mut longest) = (Duration::from_millis(5), Duration::ZERO);
            loop {
                let began = Instant::now();
                if ended.recv_timeout(nap) != Err(RecvTimeoutError::Timeout) {
                    return longest;
                }
                // As a journal is written, and flushed.
                let mut file = File::create(&path).unwrap();
                file.write_all(&[0; 4_096]).unwrap();
                file.sync_data().unwrap();
                longest = longest.max(began.elapsed().saturating_sub(nap));
            }
        });
        let played = scenario().await;
        drop(ends);
        let longest = canary.join().unwrap();
        let Err(what) = played else { return };
        assert!(longest > FAIR && attempt < 10, "{what}; threads waited {longest:?} at most");
        eprintln!("once more, since threads waited {longest:?}: {what}");
    }
}
