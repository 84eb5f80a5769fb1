//! The watch over a request's credits: it is ready when the request has to end.
//!
//! A request that stops at its slice ends when the slice is used up and the ledger has no more. The
//! watch knows when that can be at the soonest, asks the ledger then, and waits for its answer.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use crate::{keeper::HeldSlice, metering::RemainingTime};

/// The worker answers within the ledger's timeout, even without the ledger. After so many timeouts
/// the worker itself is gone.
const TIMEOUTS_UNTIL_WORKER_IS_GONE: u32 = 4;

/// The watch over one request's credits. Every request moves it, so what only those need that go on
/// for a while is in a box.
#[derive(Default)]
pub(super) struct CutOffWatch {
    going: Option<Box<Going>>,
    /// Nobody needs to poll before the timer fires, or the task is woken.
    is_armed: bool,
    /// Frames before this moment do not check the account, whose lock others use too, unless the
    /// task was woken.
    next_check: Duration,
}

/// The part of the watch over a request that goes on for a while.
#[derive(Default)]
struct Going {
    timer: Option<Pin<Box<Sleep>>>,
    /// Notes that the task was woken.
    wake_flag: Option<(Arc<WakeFlag>, Waker)>,
    /// Until when an answer of the ledger is waited for.
    gives_up_at: Option<Instant>,
}

impl CutOffWatch {
    /// Notes wake-ups from now on: the response is polled by a task of its own.
    pub(super) fn use_wake_flag(&mut self) {
        self.is_armed = false;
        self.going().wake_flag = Some(WakeFlag::new());
    }

    fn going(&mut self) -> &mut Going {
        self.going.get_or_insert_default()
    }

    fn timer(&self) -> Option<&Sleep> {
        self.going.as_ref()?.timer.as_deref()
    }

    /// Frees its timer: the charge is closed.
    pub(super) fn stop(&mut self) {
        if let Some(going) = &mut self.going {
            going.timer = None;
        }
    }

    /// Makes the next poll check the account: its compute time stood still meanwhile.
    pub(super) fn disarm(&mut self) {
        self.is_armed = false;
    }

    /// Makes the next frame check the account: its compute time grew.
    pub(super) fn check_next_frame(&mut self) {
        (self.is_armed, self.next_check) = (false, Duration::ZERO);
    }

    /// `true` if it is time to check the account, now that a frame is there.
    pub(super) fn is_check_due(&self, now: Duration) -> bool {
        now >= self.next_check || self.was_woken()
    }

    /// `true` if the task will be woken when there is something to check.
    pub(super) fn is_armed(&self) -> bool {
        self.is_armed && !self.was_woken() && self.timer().is_none_or(|timer| !timer.is_elapsed())
    }

    /// `true` if something has changed since the last check.
    fn was_woken(&self) -> bool {
        let flag = self.going.as_ref().and_then(|going| going.wake_flag.as_ref());
        flag.is_none_or(|(flag, _)| flag.woken.load(Ordering::Acquire))
    }

    /// Ready with `true` if the request ends here. Pending while the ledger is asked; the caller
    /// holds the service back then.
    pub(super) fn poll_is_over(
        &mut self,
        slice: Option<&HeldSlice>,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        let now = slice.and_then(HeldSlice::now).map_or(Duration::ZERO, |now| now.compute);
        match self.remaining(slice, cx) {
            None | Some(RemainingTime::Unlimited) => {
                self.next_check = Duration::MAX;
                Poll::Ready(false)
            }
            Some(RemainingTime::Frozen) => {
                self.next_check = Duration::ZERO;
                Poll::Ready(false)
            }
            Some(RemainingTime::For(left)) => {
                // Until then the slice cannot be used up, as it only grows, unless the service
                // reports more, which wakes the task.
                self.next_check = now.saturating_add(left);
                Poll::Ready(false)
            }
            Some(RemainingTime::None) => Poll::Ready(true),
            Some(RemainingTime::Ask | RemainingTime::Wait) => {
                self.poll_ledger(slice, cx).map(|()| true)
            }
        }
    }

    /// Ready once the request has to end.
    pub(super) fn poll_over(
        &mut self,
        slice: Option<&HeldSlice>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            self.is_armed = false;
            let left = match self.remaining(slice, cx) {
                None | Some(RemainingTime::Unlimited | RemainingTime::Frozen) => {
                    self.is_armed = true;
                    return Poll::Pending;
                }
                Some(RemainingTime::For(left)) => left,
                Some(RemainingTime::None) => return Poll::Ready(()),
                Some(RemainingTime::Ask | RemainingTime::Wait) => {
                    return self.poll_ledger(slice, cx);
                }
            };
            // Timers count whole milliseconds; a billing clock that stands still must not make this
            // spin.
            let at = Instant::now().checked_add(left.max(Duration::from_millis(1)));
            self.is_armed = at.is_none_or(|at| self.poll_timer(at, cx).is_pending());
            if self.is_armed {
                return Poll::Pending;
            }
        }
    }

    /// Ready once a request whose service has ended can be billed: its slice covers its usage, or
    /// the ledger has no more. `true` if the ledger has no more.
    pub(super) fn poll_payable(
        &mut self,
        slice: Option<&HeldSlice>,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        match self.remaining(slice, cx) {
            Some(RemainingTime::None) => Poll::Ready(true),
            // If the answer does not come, the lease asks again after the request's end.
            Some(RemainingTime::Ask | RemainingTime::Wait) => {
                self.poll_ledger(slice, cx).map(|()| false)
            }
            _ => Poll::Ready(false),
        }
    }

    fn remaining(&mut self, slice: Option<&HeldSlice>, cx: &Context<'_>) -> Option<RemainingTime> {
        let slice = slice?;
        let now = slice.now()?;
        // The ledger is asked again after a pause, or after half of the remaining time, which is
        // two pauses at most before the end.
        let fresh = slice.ledger_timeout()? + slice.refill_pause()? * 4;
        let flag = self.going.as_ref().and_then(|going| going.wake_flag.as_ref());
        let waker = flag.map_or(cx.waker(), |(flag, waker)| {
            flag.reset(cx.waker());
            waker
        });
        let remaining = slice.with(|request| request.remaining(now, fresh, waker))?;
        if matches!(remaining, RemainingTime::Ask) {
            slice.request_refill();
        }
        if !matches!(remaining, RemainingTime::Wait) {
            // Another question has its own time.
            if let Some(going) = &mut self.going {
                going.gives_up_at = None;
            }
        }
        Some(remaining)
    }

    /// Ready if the ledger's answer does not come. The worker answers in time, even without the
    /// ledger, so this is for a worker that is gone.
    fn poll_ledger(&mut self, slice: Option<&HeldSlice>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timeout) = slice.and_then(HeldSlice::ledger_timeout) else {
            return Poll::Ready(());
        };
        let patience = timeout * TIMEOUTS_UNTIL_WORKER_IS_GONE;
        loop {
            let gives_up_at = &mut self.going().gives_up_at;
            let at = *gives_up_at.get_or_insert_with(|| Instant::now() + patience);
            ready!(self.poll_timer(at, cx));
            let now = Instant::now();
            if now >= at + timeout {
                // The process stood still, and so did the worker.
                self.going().gives_up_at = None;
            } else if now >= at {
                return Poll::Ready(());
            }
        }
    }

    fn poll_timer(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = &mut self.going().timer;
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.is_elapsed() || timer.deadline() > at + Duration::from_millis(1) {
            timer.as_mut().reset(at);
        }
        // A body that used up the task's budget must not keep the timer from being armed.
        pin!(tokio::task::unconstrained(timer.as_mut())).poll(cx)
    }
}

/// Wakes a task, and notes that it was woken.
#[derive(Debug)]
struct WakeFlag {
    woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl WakeFlag {
    fn new() -> (Arc<Self>, Waker) {
        let flag = Arc::new(Self { woken: AtomicBool::new(true), task: Mutex::default() });
        (Arc::clone(&flag), flag.into())
    }

    /// Clears the flag, and wakes this task from now on.
    fn reset(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
        drop(task);
        self.woken.store(false, Ordering::Release);
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }
}
