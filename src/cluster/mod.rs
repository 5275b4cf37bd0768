//! cluster
mod follow;
mod record;
