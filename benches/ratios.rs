//! What each layer adds to a request: time, in rounds that take turns, and heap allocations. `cargo
//! bench -p benches --bench ratios`.
//!
//! Everything runs in one process and one thread, one request after the other, each ready at once.
//! What a layer adds is its median less the bare service's; ratios compare what is added.
//! Arguments: the number of rounds (default 101), and of requests in each (default 20 000).
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

use std::{env, hint::black_box, time::Instant};

use benches::{
    Contender, contenders, first_frames,
    plots::{self, Bar},
    streams,
};

fn main() {
    let numbers: Vec<usize> =
        env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (rounds, requests) =
        (numbers.first().copied().unwrap_or(101), numbers.get(1).copied().unwrap_or(20_000));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();

    println!("{rounds} rounds that take turns, {requests} requests each\n");
    let added = compare(&mut contenders(), rounds, requests, 1, "a request");
    plots::draw(
        "added-time.svg",
        "Time that a layer adds to a request, nanoseconds (limitador left out)",
        "ns",
        &without_limitador(added),
    );
    let mut frames = Vec::new();
    for (waits, how) in [(false, "each ready at once"), (true, "each waited for")] {
        println!("\nStreams of {FRAMES} frames of 16 bytes, {how}, {rounds} rounds of 10\n");
        frames.push(compare(&mut streams(FRAMES, waits), rounds, 10, FRAMES, "a frame"));
    }
    println!("\nStreams until the first frame, which is waited for, {rounds} rounds of 2 000\n");
    compare(&mut first_frames(), rounds, 2_000, 1, "a first frame");
    let added = frames.swap_remove(1);
    plots::draw(
        "added-time-frames.svg",
        "Time that a layer adds to a frame of a stream, nanoseconds",
        "ns",
        &added,
    );
}

fn without_limitador(mut bars: Vec<Bar>) -> Vec<Bar> {
    bars.retain(|bar| !bar.name.starts_with("limitador"));
    bars
}

const FRAMES: usize = 10_000;

/// Prints what each takes and adds to the first, in rounds that take turns. What is counted comes
/// `parts` times in each request.
fn compare(
    all: &mut [Contender],
    rounds: usize,
    requests: usize,
    parts: usize,
    part: &str,
) -> Vec<Bar> {
    let mut nanos = vec![Vec::with_capacity(rounds); all.len()];
    let mut failed = vec![0; all.len()];
    for round in 0..=rounds {
        for (number, contender) in all.iter_mut().enumerate() {
            let began = Instant::now();
            let succeeded = (0..requests).filter(|_| black_box((contender.run)())).count();
            let took = began.elapsed().as_nanos() as f64 / (requests * parts) as f64;
            failed[number] += requests - succeeded;
            if round > 0 {
                nanos[number].push(took);
            }
        }
    }
    let allocations: Vec<f64> = all.iter_mut().map(allocations).collect();

    let quantile = |of: &mut Vec<f64>, at: f64| {
        of.sort_by(f64::total_cmp);
        of[((of.len() - 1) as f64 * at) as usize]
    };
    let medians: Vec<f64> = nanos.iter_mut().map(|of| quantile(of, 0.5)).collect();
    let governor =
        all.iter().position(|contender| contender.name.starts_with("tower_governor, by peer"));
    let mut bars = Vec::new();
    println!(
        "| layer | ns {part}: median (5 % .. 95 %) | added ns | added / tower_governor's | added allocations a request | not served |"
    );
    println!("|---|---|---|---|---|---|");
    for (number, contender) in all.iter().enumerate() {
        let added = medians[number] - medians[0];
        let ratio = governor.map_or("-".to_owned(), |governor| {
            format!("{:.2}", added / (medians[governor] - medians[0]))
        });
        println!(
            "| {} | {:.1} ({:.1} .. {:.1}) | {added:.1} | {ratio} | {:.3} | {} |",
            contender.name,
            medians[number],
            quantile(&mut nanos[number], 0.05),
            quantile(&mut nanos[number], 0.95),
            allocations[number] - allocations[0],
            failed[number],
        );
        if number > 0 {
            let (least, most) = (
                quantile(&mut nanos[number], 0.05) - medians[0],
                quantile(&mut nanos[number], 0.95) - medians[0],
            );
            let ours =
                ["ahead", "strict", "free"].iter().any(|name| contender.name.starts_with(name));
            bars.push(Bar { name: contender.name.to_owned(), value: added, least, most, ours });
        }
    }
    bars
}

/// Allocations a request, on this thread.
fn allocations(contender: &mut Contender) -> f64 {
    let requests = 1_000;
    let info = allocation_counter::measure(|| {
        for _ in 0..requests {
            black_box((contender.run)());
        }
    });
    info.count_total as f64 / f64::from(requests)
}
