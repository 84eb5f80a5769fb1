//! The RNNoise network on PCM, which the examples serve.

use nnnoiseless::DenoiseState;
use tower_credits::ComputeClock;

/// RNNoise works on frames of 10 ms and is one frame late; as many samples come out as went in.
pub(crate) struct Denoiser {
    network: Box<DenoiseState<'static>>,
    pending: Vec<u8>,
    received: usize,
    sent: usize,
    is_late: bool,
}

impl Denoiser {
    const FRAME: usize = DenoiseState::FRAME_SIZE;

    pub(crate) fn new() -> Self {
        Self { network: DenoiseState::new(), pending: Vec::new(), received: 0, sent: 0, is_late: true }
    }

    /// Takes samples (16-bit little-endian, 48 kHz, mono), and answers those that are denoised by now. The clock runs while the network computes.
    pub(crate) async fn push(&mut self, chunk: &[u8], clock: &ComputeClock) -> Vec<u8> {
        self.pending.extend_from_slice(chunk);
        self.received += chunk.len();
        let mut output = Vec::with_capacity(chunk.len());
        let whole = self.pending.len() / (2 * Self::FRAME) * (2 * Self::FRAME);
        let frames: Vec<u8> = self.pending.drain(..whole).collect();
        for frames in frames.chunks(32 * 2 * Self::FRAME) {
            clock.start();
            frames.chunks_exact(2 * Self::FRAME).for_each(|frame| self.frame(frame, &mut output));
            clock.pause();
            // Other requests get their turn every few milliseconds, at their own cost.
            tokio::task::yield_now().await;
        }
        self.sent += output.len();
        output
    }

    /// The samples that are still owed when no more come.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
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
