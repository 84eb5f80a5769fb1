//! Compute time is the service's own, whoever reads its response.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    BoxError, CreditMeter, CreditMeterBuilder, MemoryLedger,
    meter::{MeterBody, Stalled},
};

use crate::support::{bodies::Fed, *};

type Frames = UnsyncBoxBody<Bytes, BoxError>;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a service did, for as long as its response was wanted.
#[derive(Clone, Default)]
struct Work {
    busy: Arc<AtomicU64>,
    made: Arc<AtomicUsize>,
    /// Milliseconds after its call, once its body was dropped.
    dropped: Arc<AtomicU64>,
}

impl Work {
    async fn compute(&self, time: u64) {
        sleep(millis(time)).await;
        self.busy.fetch_add(time, Ordering::SeqCst);
        self.made.fetch_add(1, Ordering::SeqCst);
    }

    fn busy(&self) -> u64 {
        self.busy.load(Ordering::SeqCst)
    }

    fn dropped(&self) -> Option<u64> {
        Some(self.dropped.load(Ordering::SeqCst)).filter(|at| *at > 0)
    }
}

/// Says when it is dropped.
struct Tells(Work, Instant);

impl Drop for Tells {
    fn drop(&mut self) {
        self.0
            .dropped
            .store(u64::try_from(self.1.elapsed().as_millis()).unwrap().max(1), Ordering::SeqCst);
    }
}

/// How a service makes its frames, each in so many milliseconds.
#[derive(Clone, Debug)]
enum Service {
    /// In a task that sends them through a channel of this size.
    Spawned(Vec<u64>, usize),
    /// When it is polled.
    Lazy(Vec<u64>),
    /// All of them before the head.
    Before(Vec<u64>),
    /// In a task, and then it fails.
    Failing(Vec<u64>, usize),
}

impl Service {
    async fn respond(self, work: Work) -> Frames {
        let frame = || Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x")));
        let tells = Tells(work.clone(), Instant::now());
        match self {
            Self::Spawned(gaps, size) => {
                let (feed, fed) = mpsc::channel(size);
                tokio::spawn(async move {
                    for gap in gaps {
                        work.compute(gap).await;
                        if feed.send(frame()).await.is_err() {
                            break;
                        }
                    }
                });
                received(fed, tells)
            }
            Self::Failing(gaps, size) => {
                let (feed, fed) = mpsc::channel(size);
                tokio::spawn(async move {
                    for gap in gaps {
                        work.compute(gap).await;
                        if feed.send(frame()).await.is_err() {
                            return;
                        }
                    }
                    drop(feed.send(Err("the model broke".into())).await);
                });
                received(fed, tells)
            }
            Self::Lazy(gaps) => {
                let frames = futures_util::stream::unfold(
                    (gaps.into_iter(), tells),
                    move |(mut gaps, tells)| {
                        let work = work.clone();
                        async move {
                            work.compute(gaps.next()?).await;
                            Some((
                                Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x"))),
                                (gaps, tells),
                            ))
                        }
                    },
                );
                StreamBody::new(frames).boxed_unsync()
            }
            Self::Before(gaps) => {
                for gap in &gaps {
                    work.compute(*gap).await;
                }
                let frames = futures_util::stream::iter(gaps.into_iter().map(move |_| {
                    let _: &Tells = &tells;
                    frame()
                }));
                StreamBody::new(frames).boxed_unsync()
            }
        }
    }
}

fn received(fed: mpsc::Receiver<Result<Frame<Bytes>, BoxError>>, tells: Tells) -> Frames {
    let frames = futures_util::stream::unfold((fed, tells), async |(mut fed, tells)| {
        Some((fed.recv().await?, (fed, tells)))
    });
    StreamBody::new(frames).boxed_unsync()
}

async fn ask(
    meter: &CreditMeter,
    tier: &str,
    service: Service,
) -> (Response<MeterBody<Frames>>, Work) {
    let work = Work::default();
    let working = work.clone();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            let (service, work) = (service.clone(), working.clone());
            async move { Ok::<_, Infallible>(Response::new(service.respond(work).await)) }
        },
    ));
    (service.oneshot(request("alice", tier, Empty::new())).await.unwrap(), work)
}

/// How a client reads, in milliseconds.
#[derive(Clone, Debug)]
enum Client {
    Prompt,
    /// One frame in so many.
    Slow(u64),
    /// Nothing for so long, then everything.
    Stalled(u64),
    /// A few after each stall.
    Sips(u64, usize),
    /// Stalls, takes one, and all that there is right after that.
    Cunning(u64),
    /// Goes away after this time.
    Gone(u64),
    /// Reads nothing, and goes away after this time.
    Asleep(u64),
}

impl Client {
    /// Reads to the end, or goes away. Answers how many frames came.
    async fn read(self, response: Response<MeterBody<Frames>>) -> usize {
        let mut body = Box::pin(response.into_body());
        let mut frames = 0;
        let gone = match self {
            Self::Gone(after) | Self::Asleep(after) => Some(Instant::now() + millis(after)),
            _ => None,
        };
        loop {
            match &self {
                Self::Slow(pause) => sleep(millis(*pause)).await,
                Self::Stalled(pause) if frames == 0 => sleep(millis(*pause)).await,
                Self::Sips(pause, sip) if frames % sip == 0 => sleep(millis(*pause)).await,
                Self::Cunning(pause) if frames % 24 == 0 => sleep(millis(*pause)).await,
                Self::Cunning(_) if frames % 24 == 1 => sleep(millis(1)).await,
                Self::Asleep(after) => {
                    sleep(millis(*after)).await;
                    return frames;
                }
                _ => {}
            }
            let next = match gone {
                Some(at) => tokio::time::timeout_at(at, body.frame()).await,
                None => Ok(body.frame().await),
            };
            match next {
                Ok(Some(Ok(_))) => frames += 1,
                Ok(Some(Err(_)) | None) | Err(_) => return frames,
            }
        }
    }
}

/// Small queues, so that a test fills them: sixteen frames of one byte.
fn narrow() -> CreditMeterBuilder {
    meter(MemoryLedger::new()).read_ahead_per_response(16 * 129)
}

async fn billed(meter: &CreditMeter, tier: &str) -> u64 {
    u64::try_from(settled(meter, "alice", tier, 1).await.compute().as_millis()).unwrap()
}

/// A client that keeps its window shut pays what an honest one pays.
#[tokio::test(start_paused = true)]
async fn a_stalling_reader_pays_for_what_the_service_computed() {
    for client in [
        Client::Prompt,
        Client::Stalled(4_000),
        Client::Slow(97),
        Client::Sips(700, 8),
        Client::Cunning(600),
    ] {
        // 29 s, of which a channel's worth at a time can be made while nobody reads.
        let meter = narrow().build().unwrap();
        let (response, work) = ask(&meter, "pro", Service::Spawned(vec![10; 2_900], 8)).await;
        assert_eq!(client.clone().read(response).await, 2_900);
        let (billed, busy) = (billed(&meter, "pro").await, work.busy());
        assert_eq!(busy, 29_000);
        assert!((27_500..=29_100).contains(&billed), "{client:?}: {billed} ms");
    }
}

/// Whoever reads: a request that stops gets no more of the service than its credits pay for.
#[tokio::test(start_paused = true)]
async fn credits_for_300_ms_are_three_frames_of_100_ms_whoever_reads() {
    for client in [Client::Prompt, Client::Stalled(5_000), Client::Slow(250), Client::Asleep(9_000)]
    {
        let meter = meter(MemoryLedger::new())
            .ledger_timeout(millis(20))
            .report_within(millis(20))
            .build()
            .unwrap();
        let (response, work) = ask(&meter, "quick", Service::Spawned(vec![100; 290], 64)).await;
        client.clone().read(response).await;
        let statement = settled(&meter, "alice", "quick", 1).await;
        assert_eq!(statement.used, nanos(36_000), "{client:?}");
        let (made, dropped) = (work.made.load(Ordering::SeqCst), work.dropped().unwrap());
        assert!((3..=4).contains(&made), "{client:?}: {made} frames of service");
        assert!((300..350).contains(&dropped), "{client:?}: cut after {dropped} ms");
    }
}

/// What was made is made: that it waits to be fetched costs nothing, however long.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_done_is_billed_until_it_was() {
    for service in [Service::Before(vec![100; 10]), Service::Spawned(vec![100; 10], 64)] {
        for client in [Client::Asleep(900_000), Client::Slow(50_000), Client::Prompt] {
            let meter = meter(MemoryLedger::new()).build().unwrap();
            let (response, _) = ask(&meter, "pro", service.clone()).await;
            client.read(response).await;
            assert_eq!(billed(&meter, "pro").await, 1_000);
        }
    }
}

/// The same for more than the queue takes: the rest waits in the service.
#[tokio::test(start_paused = true)]
async fn what_was_made_before_its_head_costs_nothing_to_fetch_slowly() {
    let meter = narrow().build().unwrap();
    let (response, _) = ask(&meter, "pro", Service::Before(vec![1; 1_000])).await;
    Client::Slow(1_000).read(response).await;
    assert_eq!(billed(&meter, "pro").await, 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_response_of_which_nobody_takes_anything_is_abandoned() {
    let meter = narrow().stall_timeout(seconds(10)).build().unwrap();
    let (response, work) = ask(&meter, "pro", Service::Spawned(vec![10; 100_000], 1)).await;
    let mut body = Box::pin(response.into_body());
    // While something is taken now and then it goes on.
    for _ in 0..5 {
        sleep(seconds(9)).await;
        body.frame().await.unwrap().unwrap();
    }
    assert!(work.dropped().is_none());
    let dropped = eventually(async || {
        sleep(seconds(1)).await;
        work.dropped()
    })
    .await;
    assert!((54_900..=55_300).contains(&dropped), "{dropped} ms");
    settled(&meter, "alice", "pro", 1).await;
    assert!(body.frame().await.unwrap().unwrap_err().is::<Stalled>(), "its reader learns it");
    assert!(body.frame().await.is_none());
}

/// Nothing abandons them. They fill the places of their own account.
#[tokio::test(start_paused = true)]
async fn readers_that_take_a_frame_now_and_then_fill_no_more_places_than_most_running() {
    let meter = narrow().stall_timeout(seconds(10)).build().unwrap();
    let bounded = PLAN.replace("[tiers.pro]\n", "[tiers.pro]\nmost_running = 2\n");
    meter.plan().replace(tower_credits::Plan::from_toml(&bounded).unwrap());
    let endless = || Service::Spawned(vec![10; 100_000], 1);
    let (first, of_first) = ask(&meter, "pro", endless()).await;
    let (second, of_second) = ask(&meter, "pro", endless()).await;
    let mut bodies = [first, second].map(|response| Box::pin(response.into_body()));
    for _ in 0..100 {
        sleep(seconds(9)).await;
        for body in &mut bodies {
            body.frame().await.unwrap().unwrap();
        }
        assert_eq!(ask(&meter, "pro", endless()).await.0.status(), 429);
    }
    assert_eq!((of_first.dropped(), of_second.dropped()), (None, None));
    let [first, _second] = bodies;
    drop(first);
    eventually(async || (ask(&meter, "pro", endless()).await.0.status() == 200).then_some(()))
        .await;
}

/// A client that takes large frames slowly is no stalled one.
#[tokio::test(start_paused = true)]
async fn a_slow_client_of_large_frames_is_not_abandoned() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let (feed, body) = crate::support::bodies::Fed::new();
    let body = Once::new(body);
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(body.take())))
        },
    ));
    let response = service.oneshot(request("alice", "pro", Empty::new())).await.unwrap();
    for _ in 0..12 {
        feed.send(Bytes::from(vec![0; 1 << 20])).await.unwrap();
    }
    drop(feed);
    let mut body = Box::pin(response.into_body());
    for _ in 0..12 {
        body.frame().await.unwrap().unwrap();
        // A mebibyte at 12.5 kB a second.
        sleep(seconds(84)).await;
    }
    assert!(body.frame().await.is_none());
}

/// The announced length is all that a server reads: what comes after it, or does not, is nobody's
/// business.
#[tokio::test(start_paused = true)]
async fn a_full_queue_at_the_end_of_the_announced_length_is_no_failure() {
    for patience in [seconds(60), Duration::MAX] {
        let meter = narrow().stall_timeout(patience).build().unwrap();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            async |_: Request<Empty<Bytes>>| {
                let frames = futures_util::stream::iter(
                    (0..100).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x")))),
                );
                Ok::<_, Infallible>(
                    Response::builder()
                        .header("content-length", 100)
                        .body(StreamBody::new(frames).boxed_unsync())
                        .unwrap(),
                )
            },
        ));
        let response = service.oneshot(request("alice", "pro", Empty::new())).await.unwrap();
        let mut body = Box::pin(response.into_body());
        for _ in 0..100 {
            sleep(millis(10)).await;
            body.frame().await.unwrap().unwrap();
        }
        assert!(body.frame().await.is_none());
        settled(&meter, "alice", "pro", 1).await;
    }
}

/// A prelude that comes at once says nothing of what follows.
#[tokio::test(start_paused = true)]
async fn a_burst_before_a_slow_service_makes_nothing_free() {
    for client in [Client::Prompt, Client::Slow(120), Client::Slow(300), Client::Cunning(900)] {
        let meter = narrow().build().unwrap();
        let gaps = std::iter::repeat_n(0, 40).chain(std::iter::repeat_n(100, 100)).collect();
        let (response, work) = ask(&meter, "pro", Service::Spawned(gaps, 1)).await;
        client.clone().read(response).await;
        let (billed, busy) = (billed(&meter, "pro").await, work.busy());
        assert!((8_500..=11_500).contains(&billed), "{client:?}: billed {billed}, busy {busy}");
    }
}

/// A reader that goes away ends the service at once, and pays for what ran.
#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_ends_the_service() {
    for service in [Service::Spawned(vec![10; 1_000], 8), Service::Lazy(vec![10; 1_000])] {
        let meter = meter(MemoryLedger::new()).build().unwrap();
        let (response, work) = ask(&meter, "pro", service).await;
        Client::Gone(2_005).read(response).await;
        eventually(async || work.dropped()).await;
        assert_eq!(work.dropped(), Some(2_005));
        assert!((2_004..=2_005).contains(&billed(&meter, "pro").await), "it is billed until then");
    }
}

/// Random services and random readers: what is billed is what the service was busy.
#[tokio::test(start_paused = true)]
async fn billed_is_what_the_service_was_busy_whoever_reads() {
    let seeds =
        std::env::var("READERS").map_or(150, |seeds| seeds.parse().expect("READERS is a number"));
    let mut ratios = [Vec::new(), Vec::new()];
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (shortest, longest) = [(10, 10), (1, 40), (0, 20), (100, 300)][rng.usize(0..4)];
        let client = match rng.u8(0..7) {
            0 => Client::Prompt,
            1 => Client::Slow(rng.u64(1..200)),
            2 => Client::Stalled(rng.u64(100..20_000)),
            3 => Client::Sips(rng.u64(10..2_000), rng.usize(1..40)),
            4 => Client::Cunning(rng.u64(100..3_000)),
            5 => Client::Gone(rng.u64(100..5_000)),
            _ => Client::Asleep(rng.u64(100..30_000)),
        };
        let leaves = matches!(client, Client::Gone(_) | Client::Asleep(_));
        // Only who leaves can ask for what never ends.
        let frames = if leaves && rng.bool() { 100_000 } else { rng.usize(200..400) };
        // Some compute for several frames, and then have them all at once.
        let burst = [1, 1, 4, 12][rng.usize(0..4)];
        let gap = |frame: usize, rng: &mut fastrand::Rng| {
            if frame.is_multiple_of(burst) { rng.u64(shortest..=longest) } else { 0 }
        };
        let gaps: Vec<u64> = (0..frames).map(|frame| gap(frame, &mut rng)).collect();
        let size = [1, 4, 16][rng.usize(0..3)];
        let service = match rng.u8(0..5) {
            0 | 1 => Service::Spawned(gaps, size),
            2 => Service::Lazy(gaps),
            3 => Service::Failing(gaps, size),
            // What never ends has no head here.
            _ => Service::Before(gaps.into_iter().take(400).collect()),
        };
        // A queue takes several bursts.
        let meter = narrow()
            .read_ahead_per_response(129 * if burst > 4 { 64 } else { 16 })
            .build()
            .unwrap();
        let (response, work) = ask(&meter, "pro", service.clone()).await;
        let began_before = work.busy();
        client.clone().read(response).await;
        let (billed, busy) = (billed(&meter, "pro").await, work.busy());
        let case = format!(
            "seed {seed}, {client:?}, channel of {size}, {frames} frames, {burst} at once, gaps {shortest}..{longest}: billed {billed}, busy {busy}"
        );
        if leaves {
            // Who goes away does not pay for what waits unseen: the channel's worth, and a frame at
            // either end of it.
            let unseen = longest * (size as u64 + 3);
            assert!(
                billed <= busy.max(began_before) + longest && billed + unseen >= busy,
                "{case}"
            );
        } else {
            let (billed, busy) = (billed as f64, busy as f64);
            // What is known of a service that takes now more and now less is known from a few of
            // its frames.
            let (least, most) = match burst {
                1 if shortest == longest => (0.9, 1.02),
                1 => (0.6, 1.5),
                _ => (0.4, 2.2),
            };
            assert!(billed >= least * busy - 2.0 * longest as f64, "{case}");
            assert!(billed <= most * busy + 2.0 * longest as f64, "{case}");
            ratios[usize::from(burst > 1)].push(billed / busy);
        }
    }
    for (ratios, what) in ratios.iter_mut().zip(["frame by frame", "in batches"]) {
        ratios.sort_by(f64::total_cmp);
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        eprintln!(
            "billed / busy of {} that were made {what} and read to the end: {:.3} to {:.3}, mean {mean:.3}",
            ratios.len(),
            ratios[0],
            ratios[ratios.len() - 1]
        );
        assert!((0.93..1.08).contains(&mean), "{what}: {mean}");
    }
}

/// All queues of a meter together are bounded, and empty queues take nothing.
#[tokio::test(start_paused = true)]
async fn all_queues_together_are_bounded() {
    let meter = narrow().read_ahead_total(64 * 129).build().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..50 {
        // Made at once, as fast as it is taken.
        waiting.push(ask(&meter, "pro", Service::Spawned(vec![0; 100], 1)).await);
    }
    sleep(seconds(5)).await;
    let made: usize = waiting.iter().map(|(_, work)| work.made.load(Ordering::SeqCst)).sum();
    // At least one each, four until the pace is known; two more wait with the service.
    assert!((100..=64 + 50 * 6).contains(&made), "{made} frames");
    for (response, _) in waiting {
        assert_eq!(Client::Prompt.read(response).await, 100);
    }
    let (response, work) = ask(&meter, "pro", Service::Spawned(vec![0; 100], 1)).await;
    sleep(seconds(5)).await;
    assert!(work.made.load(Ordering::SeqCst) >= 16, "there is room again");
    drop(response);
}

/// A response that is fed from outside, on a node whose queues together take one byte.
async fn where_all_queues_are_full() -> (mpsc::Sender<Bytes>, Response<MeterBody<Fed>>) {
    let meter = meter(MemoryLedger::new()).read_ahead_total(1).build().unwrap();
    let (feed, body) = Fed::new();
    let body = Once::new(body);
    let service =
        ServiceBuilder::new().layer(meter).service(service_fn(move |_: Request<Empty<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(body.take())))
        }));
    (feed, service.oneshot(request("alice", "pro", Empty::new())).await.unwrap())
}

/// The number of frames that the service could not hand over.
fn handed_over(feed: &mpsc::Sender<Bytes>, sent: usize) -> usize {
    sent - (feed.max_capacity() - feed.capacity())
}

#[tokio::test(start_paused = true)]
async fn once_all_queues_together_are_full_a_response_keeps_one_frame() {
    let (feed, response) = where_all_queues_are_full().await;
    let mut body = Box::pin(response.into_body());
    // Read as it comes, until its pace is known.
    for _ in 0..20 {
        sleep(millis(10)).await;
        feed.send(Bytes::from_static(b"x")).await.unwrap();
        body.frame().await.unwrap().unwrap();
    }
    for sent in 1..=10 {
        feed.try_send(Bytes::from_static(b"x")).unwrap();
        sleep(millis(10)).await;
        assert_eq!(handed_over(&feed, sent), 1, "of {sent} frames");
    }
    // Each that is taken makes room for one.
    for taken in 1..=5 {
        body.frame().await.unwrap().unwrap();
        sleep(millis(10)).await;
        assert_eq!(handed_over(&feed, 10), 1 + taken);
    }
}

/// Before its pace is known it keeps a few frames, and of large ones only until they have 64 KiB.
#[tokio::test(start_paused = true)]
async fn once_all_queues_together_are_full_a_response_that_begins_keeps_four_frames_or_64_kib() {
    for (kib, kept) in [(1, 4), (21, 4), (22, 3), (31, 3), (32, 2), (63, 2), (64, 1), (1_024, 1)] {
        let (feed, _response) = where_all_queues_are_full().await;
        for _ in 0..10 {
            feed.try_send(Bytes::from(vec![0; kib << 10])).unwrap();
        }
        sleep(seconds(1)).await;
        assert_eq!(handed_over(&feed, 10), kept, "frames of {kib} KiB");
    }
}
