//! Instructions of one request through each layer, counted by callgrind: `scripts/instructions`.
//! The same on noisy machines.
//!
//! Each count is of 1 000 requests after 100 that warm up; what other threads do is not in it.
#![allow(missing_docs, reason = "a bench")]

use std::hint::black_box;

use benches::{Contender, contender};
use gungraun::{library_benchmark, library_benchmark_group, main};
use tokio::runtime::{Builder, Runtime};

/// A layer that is warm, and the runtime of its background task.
struct Warm(Contender, Runtime);

fn warm(name: &str) -> Warm {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("no runtime: {error}"));
    let entered = runtime.enter();
    let mut contender = contender(name);
    for _ in 0..100 {
        (contender.run)();
    }
    drop(entered);
    Warm(contender, runtime)
}

#[library_benchmark]
#[bench::bare(warm("bare"))]
#[bench::governor_by_peer(warm("tower_governor, by peer address"))]
#[bench::governor_by_token(warm("tower_governor, by token"))]
#[bench::trace(warm("tower-http trace"))]
#[bench::timeout(warm("tower-http timeout"))]
#[bench::free(warm("free path"))]
#[bench::ahead(warm("ahead"))]
#[bench::ahead_with_rate(warm("ahead, with a request rate"))]
#[bench::ahead_by_default(warm("ahead, as it is by default"))]
fn thousand_requests(mut warm: Warm) -> Warm {
    let entered = warm.1.enter();
    for _ in 0..1_000 {
        black_box((warm.0.run)());
    }
    drop(entered);
    warm
}

library_benchmark_group!(name = request, benchmarks = thousand_requests);
main!(library_benchmark_groups = request);
