//! The guard that holds a request's slice from its admission until its response ends, however it
//! ends.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{StatusCode, response::Parts};

use super::{
    bill_policy::BillPolicy, credit_meter::CreditMeter, cut_off_watch::CutOffWatch,
    upstream_time::UpstreamTimeReader,
};
use crate::{
    Credits,
    clock::{Now, Time},
    keeper::{CutRequest, Ended, HeldSlice, RunRef},
    ledger::Usage,
    metering::{End, FinishedRequest, ReadAheadBudget, RunningRequest},
    rejection::Rejection,
};

/// Holds a request's slice from its admission until its response ends. It is closed exactly once:
/// explicitly, or when it is dropped.
pub(crate) struct Charge {
    slice: Option<HeldSlice>,
    watch: CutOffWatch,
    /// `None` if everything is billed, or it is decided already.
    policy: Option<Box<BillPolicy>>,
    status: Option<StatusCode>,
    grpc_status: Option<u8>,
    billed: Option<Usage>,
    /// The ledger has said that it has no more.
    is_final: bool,
    /// The meter, if it is in shadow mode.
    shadow: Option<CreditMeter>,
    has_client_caps: bool,
}

impl Charge {
    pub(super) fn new(
        slice: HeldSlice,
        policy: Option<Box<BillPolicy>>,
        shadow: Option<CreditMeter>,
        has_client_caps: bool,
    ) -> Self {
        Self {
            slice: Some(slice),
            watch: CutOffWatch::default(),
            policy,
            status: None,
            grpc_status: None,
            billed: None,
            is_final: false,
            shadow,
            has_client_caps,
        }
    }

    /// Returns a reference to the running request, while the charge is open.
    pub(super) fn run_ref(&self) -> Option<RunRef> {
        self.slice.as_ref().and_then(HeldSlice::run_ref)
    }

    /// Returns what `look` makes of the request, while the charge is open.
    pub(super) fn with<T>(
        &self,
        look: impl FnOnce(&mut RunningRequest, Duration) -> T,
    ) -> Option<T> {
        let slice = self.slice.as_ref()?;
        let now = slice.now()?.compute;
        slice.with(|request| look(request, now))
    }

    /// The same, for what does not depend on the time.
    pub(super) fn with_request<T>(&self, look: impl FnOnce(&mut RunningRequest) -> T) -> Option<T> {
        self.slice.as_ref()?.with(look)
    }

    /// Reads the clocks, while the charge is open.
    pub(super) fn now(&self) -> Now {
        self.slice
            .as_ref()
            .and_then(HeldSlice::now)
            .unwrap_or(Now { compute: Duration::ZERO, lease: Duration::ZERO })
    }

    /// Returns the credits that the account has left, as far as this node knows.
    pub(super) fn credits_left(&self) -> Option<Credits> {
        self.slice.as_ref().and_then(HeldSlice::credits_left)
    }

    /// Begins compute time: the inner service is called now.
    pub(super) fn begin(&self) {
        self.with(RunningRequest::begin);
    }

    /// Takes note of the response's head.
    pub(super) fn set_head(&mut self, head: &Parts) {
        self.status = Some(head.status);
        let Some(is_billed) = self.policy.as_mut().and_then(|policy| policy.decide_at_head(head))
        else {
            return;
        };
        self.policy = None;
        self.with_request(|request| request.decide_at_head(is_billed));
        if let Some(slice) = self.slice.as_ref().filter(|_| !is_billed) {
            slice.release();
        }
    }

    /// Takes note that the connection is no longer HTTP.
    pub(super) fn set_upgraded(&mut self) {
        if let Some(is_billed) = self.policy.as_mut().and_then(|policy| policy.decide_at_upgrade())
        {
            self.policy = None;
            self.with_request(|request| request.decide_at_head(is_billed));
        }
    }

    /// `true` if it costs more by now than its client allows.
    pub(super) fn is_beyond_client_caps(&self) -> bool {
        self.has_client_caps
            && self.with(|request, now| request.is_beyond_client_caps(now)).unwrap_or_default()
    }

    /// Takes note of a gRPC call's status.
    pub(super) fn set_grpc_status(&mut self, status: Option<u8>) {
        self.grpc_status = status;
    }

    /// Returns the usage that was billed, once it was.
    pub(super) const fn billed(&self) -> Option<Usage> {
        self.billed
    }

    /// Returns the limits on reading the response ahead, and the clocks, while the charge is open.
    pub(super) fn read_ahead(&self) -> Option<(Arc<ReadAheadBudget>, Time)> {
        let time = self.slice.as_ref()?.time()?;
        self.with_request(|request| Arc::clone(&request.context.plan.read_ahead))
            .map(|budget| (budget, time))
    }

    /// Returns the time after which the response is abandoned if its client takes nothing.
    pub(super) fn stall_timeout(&self) -> Duration {
        self.with_request(|request| request.context.plan.read_ahead.limits.stall_timeout)
            .unwrap_or(Duration::MAX)
    }

    /// Holds the service back.
    pub(super) fn hold_back(&self) {
        self.with(RunningRequest::hold_back);
    }

    /// Lets the service go on. Returns how long it was held back.
    pub(super) fn resume(&mut self) -> Duration {
        self.watch.disarm();
        self.with(RunningRequest::resume).unwrap_or_default()
    }

    /// Bills this much of the time in which the service was held back.
    pub(super) fn bill_held_back(&mut self, computed: Duration) {
        self.watch.check_next_frame();
        self.with_request(|request| request.bill_held_back(computed));
    }

    /// Takes note that the response goes on after its head, polled by a task of its own.
    pub(super) fn set_streaming(&mut self) {
        self.watch.use_wake_flag();
        self.with_request(RunningRequest::set_streaming);
    }

    /// `true` if it is time to check the account, now that a frame is there.
    pub(super) fn is_check_due(&self, now: Duration) -> bool {
        !self.is_closed() && self.watch.is_check_due(now)
    }

    /// Ready with `true` if the request ends here. Pending while the ledger is asked; the caller
    /// holds the service back then.
    pub(super) fn poll_is_over(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.watch.poll_is_over(self.slice.as_ref(), cx)
    }

    /// `true` if the task will be woken when there is something to check.
    pub(super) fn is_watch_armed(&self) -> bool {
        self.watch.is_armed()
    }

    /// Ready once the request has to end: its slice is used up, and the ledger has no more. The
    /// slice may grow meanwhile.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.poll_over(self.slice.as_ref(), cx)
    }

    /// Ready once a request whose service has ended can be billed: its slice covers its usage, or
    /// the ledger has no more.
    pub(super) fn poll_payable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let watch = self.watch.poll_payable(self.slice.as_ref(), cx);
        watch.map(|is_final| self.is_final |= is_final)
    }

    /// Reports the compute time that the service's answer said, now that it is complete.
    pub(super) fn report_upstream(&self, reader: &mut Option<UpstreamTimeReader>) {
        if let Some(total) = reader.take().and_then(UpstreamTimeReader::finish)
            && let Some(run) = self.run_ref()
        {
            let now = self.now();
            run.with(|request| request.report(total, now));
            run.attend();
        }
    }

    /// Ends compute time: nothing after this moment is billed.
    pub(super) fn end_compute(&self, now: Now) {
        self.with_request(|request| request.end_compute(now.compute));
    }

    /// `true` if the request ends at its slice, and has used more.
    pub(super) fn is_short(&self, now: Now) -> bool {
        self.with_request(|request| request.is_short(now.compute)).unwrap_or_default()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.slice.is_none()
    }

    /// Closes it because the request had to end. Returns the reason.
    pub(super) fn cut_off(&mut self) -> Rejection {
        let is_capped = self.with(|request, now| request.is_capped(now)).unwrap_or_default();
        self.is_final = true;
        let cut = self.close(End::CutOff);
        match cut.as_deref() {
            Some(cut) if is_capped && cut.request.is_capped_by_client() => Rejection::ClientCap,
            _ if is_capped => Rejection::RequestCap,
            Some(CutRequest { request, standing })
                if request.denial().is_some_and(|denial| denial.answered) =>
            {
                Rejection::of(standing, &request.context)
            }
            _ => Rejection::LedgerUnreachable,
        }
    }

    /// Closes it now.
    pub(super) fn close(&mut self, end: End) -> Option<Box<CutRequest>> {
        let now = self.now();
        self.close_at(end, now)
    }

    /// Closes it, at a moment that was just read: bills the request, which emits its event. If the
    /// ledger is asked first how much of its usage can be paid, the lease bills it then. Returns a
    /// request that is cut off by this, or that only shadow mode let go on.
    pub(super) fn close_at(&mut self, end: End, now: Now) -> Option<Box<CutRequest>> {
        let slice = self.slice.take()?;
        self.watch.stop();
        let finished = self.finished(end);
        let is_billed = self.policy.take().is_none_or(|policy| policy.decide_at_end(&finished));
        let ended = slice.end(now, !self.is_final, |request| {
            request.finish(finished, is_billed, now.compute);
        })?;
        self.closed(ended, now)
    }

    /// Closes it, unless its request ends at its slice and has used more. Returns `true` if it is
    /// closed.
    pub(super) fn close_if_paid(&mut self, end: End, now: Now) -> bool {
        // The host's code decides outside of the account's lock.
        if self.policy.is_some() {
            let is_paid = !self.is_short(now);
            if is_paid {
                self.close_at(end, now);
            }
            return is_paid;
        }
        let Some(slice) = self.slice.take() else { return true };
        let finished = self.finished(end);
        let ended = slice.end_if(now, !self.is_final, |request| {
            let is_paid = !request.is_short(now.compute);
            if is_paid {
                request.finish(finished, true, now.compute);
            }
            is_paid
        });
        match ended {
            Ok(ended) => {
                self.watch.stop();
                ended.and_then(|ended| self.closed(ended, now));
                true
            }
            Err(slice) => {
                self.slice = Some(slice);
                false
            }
        }
    }

    const fn finished(&self, end: End) -> FinishedRequest {
        FinishedRequest { status: self.status, grpc_status: self.grpc_status, end }
    }

    /// Notes what it was billed.
    fn closed(&mut self, Ended { billed, cut }: Ended, now: Now) -> Option<Box<CutRequest>> {
        self.billed = billed;
        if let (Some(meter), Some(cut)) = (&self.shadow, &cut) {
            meter.would_cut_off(cut, now);
        }
        cut
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.slice.is_some() {
            self.close(End::Dropped);
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("open", &self.slice.is_some()).finish_non_exhaustive()
    }
}
