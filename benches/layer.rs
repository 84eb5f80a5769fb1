//! One request through each layer, by criterion. `ratios` compares them in rounds that take turns,
//! and counts allocations.
#![allow(missing_docs, reason = "a bench")]

use benches::contenders;
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Builder;

fn layer(c: &mut Criterion) {
    // The meters' background tasks run on a thread of their own.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    let _entered = runtime.enter();
    let mut group = c.benchmark_group("request");
    for mut contender in contenders() {
        group.bench_function(contender.name, |b| b.iter(|| (contender.run)()));
    }
    group.finish();
}

criterion_group!(benches, layer);
criterion_main!(benches);
