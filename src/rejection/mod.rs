//! Denials: the reason ([`Rejection`]), its texts, and its response in HTTP and in gRPC.
//!
//! A denial tells the truth, so that its caller knows whether to pay, to wait, or to correct the
//! request. Each text says what happened and what the caller can do.

mod denial;
mod grpc;
mod http;
#[cfg(test)]
mod tests;
mod text;

pub use self::denial::Rejection;
pub(crate) use self::{
    grpc::{
        is_message as is_grpc_message, is_web_message as is_grpc_web_message,
        status_of as grpc_status_of,
    },
    http::DenialStyle,
};
