//! Denials that tell the truth: a caller learns whether to pay, to wait, or to mend the request.

mod denial;
mod grpc;
mod http;

pub use self::denial::Rejection;
pub use self::http::DenialFormat;
pub(crate) use self::{
    grpc::{is_message as is_grpc_message, status_of as grpc_status_of},
    http::DenialStyle,
};
