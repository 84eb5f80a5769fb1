//! The RNNoise network on PCM: the model that the examples serve.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use nnnoiseless::DenoiseState;
use tower_credits::ComputeClock;

/// Content type of requests and responses.
#[allow(dead_code, reason = "gRPC has a content type of its own")]
pub(crate) const CONTENT_TYPE: &str = "audio/l16; rate=48000; channels=1";

/// Streams PCM in and out. Only the time in which the network computes is billed; waiting for the
/// client's next samples costs nothing.
pub(crate) fn denoised<E: Send>(
    input: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    clock: ComputeClock,
) -> impl Stream<Item = Result<Bytes, E>> + Send {
    // Once started, this clock counts in place of the measured time.
    clock.start();
    clock.pause();
    let state = (Box::pin(input), Denoiser::new(), Some(clock));
    stream::unfold(state, |(mut input, mut denoiser, clock)| async move {
        let clock = clock?;
        loop {
            let (output, goes_on) = match input.next().await {
                Some(Ok(chunk)) => (Ok(denoiser.push(&chunk, &clock).await), true),
                Some(Err(error)) => (Err(error), false),
                None => {
                    clock.start();
                    let output = denoiser.finish();
                    clock.pause();
                    (Ok(output), false)
                }
            };
            let is_empty = output.as_ref().is_ok_and(Vec::is_empty);
            if !goes_on && is_empty {
                return None;
            }
            if !is_empty {
                return Some((
                    output.map(Bytes::from),
                    (input, denoiser, goes_on.then_some(clock)),
                ));
            }
        }
    })
}

/// The network with its buffers. RNNoise works on frames of 10 ms and is one frame late; the same
/// number of samples comes out as goes in.
struct Denoiser {
    network: Box<DenoiseState<'static>>,
    pending: Vec<u8>,
    received: usize,
    sent: usize,
    is_late: bool,
}

impl Denoiser {
    const FRAME: usize = DenoiseState::FRAME_SIZE;

    fn new() -> Self {
        Self {
            network: DenoiseState::new(),
            pending: Vec::new(),
            received: 0,
            sent: 0,
            is_late: true,
        }
    }

    /// Takes samples (16-bit little-endian, 48 kHz, mono) and returns those that are denoised so
    /// far. The clock runs while the network computes.
    async fn push(&mut self, chunk: &[u8], clock: &ComputeClock) -> Vec<u8> {
        self.pending.extend_from_slice(chunk);
        self.received += chunk.len();
        let mut output = Vec::with_capacity(chunk.len());
        let whole = self.pending.len() / (2 * Self::FRAME) * (2 * Self::FRAME);
        let frames: Vec<u8> = self.pending.drain(..whole).collect();
        for frames in frames.chunks(32 * 2 * Self::FRAME) {
            clock.start();
            frames.chunks_exact(2 * Self::FRAME).for_each(|frame| self.frame(frame, &mut output));
            clock.pause();
            // Let other requests run every few milliseconds.
            tokio::task::yield_now().await;
        }
        self.sent += output.len();
        output
    }

    /// Returns the last samples, after the input has ended.
    fn finish(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        let wanted = self.received / 2 * 2 - self.sent;
        let mut rest = std::mem::take(&mut self.pending);
        while output.len() < wanted {
            rest.resize(2 * Self::FRAME, 0);
            self.frame(&rest, &mut output);
            rest.clear();
        }
        output.truncate(wanted);
        output
    }

    fn frame(&mut self, frame: &[u8], output: &mut Vec<u8>) {
        let mut input = [0.0; Self::FRAME];
        for (sample, bytes) in input.iter_mut().zip(frame.chunks_exact(2)) {
            *sample = f32::from(i16::from_le_bytes([bytes[0], bytes[1]]));
        }
        let mut denoised = [0.0; Self::FRAME];
        self.network.process_frame(&mut denoised, &input);
        if std::mem::take(&mut self.is_late) {
            return;
        }
        for sample in denoised {
            output.extend_from_slice(&(sample.clamp(-32768.0, 32767.0) as i16).to_le_bytes());
        }
    }
}
