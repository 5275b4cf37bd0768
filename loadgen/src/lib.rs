//! loadgen: a WebSocket load generator that can't lie.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`options`] | the command line: options that contradict each other are refused |
//! | [`plan`] | what a run has to do |
//! | [`preflight`] | limits and the target, checked before the first client |
//! | [`outputs`] | the files that a run writes |
//! | [`interrupt`] | Ctrl-C: ends the run early, with a report |
//! | [`private_server`] | the hi that is started when there is no `--url` |
//! | [`drive`] | the run: connect, warm up, measure, drain, report |
//! | [`schedule`] | when each message is due (pure) |
//! | [`worker`] | one thread: clients in one epoll loop, publishers on their schedule |
//! | [`client`] | one connection |
//! | [`wire`], [`payload`], [`session`], [`target`] | frames, stamps, positions in rooms, URLs (pure) |
//! | [`audit`], [`order`], [`promises`], [`faults`], [`stats`] | what arrived, in which order, and what should have |
//! | [`verdict`] | whether the numbers can be trusted, and whose fault a failure is (pure) |
//! | [`results`], [`report`] | the numbers, and how they are shown |
//! | [`progress`] | what is shown while a run lasts |
//! | [`printable`], [`secrets`] | text from others, made harmless; URLs without their secrets (pure) |
//! | [`os`] | limits, clocks, processes, sockets |

pub mod audit;
pub mod client;
pub mod drive;
pub mod faults;
pub mod interrupt;
pub mod options;
pub mod order;
pub mod os;
pub mod outputs;
pub mod payload;
pub mod plan;
pub mod preflight;
pub mod printable;
pub mod private_server;
pub mod progress;
pub mod promises;
pub mod report;
pub mod results;
pub mod schedule;
pub mod secrets;
pub mod session;
pub mod stats;
pub mod target;
pub mod verdict;
pub mod wire;
pub mod worker;
