//! The vendor: HTTP, authorization, the request budget, and both dialects of its JSON.

pub mod wire;
