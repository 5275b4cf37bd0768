//! Fan-out with nothing around it: a loop of `send(2)`, and the floor, one io_uring submission for all sends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use io_uring::{IoUring, opcode, types};

use crate::case::Case;

/// Flag in a message's number: the publisher asks how long the sends took, in nanoseconds.
pub(crate) const TIMED: u32 = 1 << 31;
/// Bytes; fits each of our request heads.
const HEAD_BYTES_MAX: usize = 1024;
/// The response to the only key that our clients send.
const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";

/// The bare servers: they accept the members and a publisher, and for each number from it they send the frame to every
/// member, with nothing around it.
pub(crate) fn serve(in_one_batch: bool, case: Case) {
    hi::os::raise_file_limit().unwrap();
    hi::os::pin_to_core(hi::os::allowed_cores().unwrap()[0]).unwrap();
    let listener = hi::os::bind_shards(([127, 0, 0, 1], 0).into(), false, 1).unwrap().pop().unwrap();
    println!("{}", listener.local_addr().unwrap());
    let sockets: Vec<TcpStream> = (0..case.members).map(|_| accept(&listener)).collect();
    let mut publisher = accept(&listener);
    let mut batch = in_one_batch.then(|| Batch::new(case.members));
    let mut message = [0; 4];
    while publisher.read_exact(&mut message).is_ok() {
        let message = u32::from_be_bytes(message);
        let frame = case.frames.frame(message & !TIMED);
        let began = Instant::now();
        match &mut batch {
            Some(batch) => batch.send(sockets.iter().map(AsRawFd::as_raw_fd), &frame),
            None => {
                for mut socket in &sockets {
                    socket.write_all(&frame).expect("send");
                }
            }
        }
        if message & TIMED != 0 {
            let nanoseconds = began.elapsed().as_nanos() as u64;
            publisher.write_all(&nanoseconds.to_be_bytes()).expect("the publisher listens");
        }
    }
}

/// The minimal handshake: accept, read the head, answer. No parser, no check.
fn accept(listener: &TcpListener) -> TcpStream {
    let (mut socket, _) = listener.accept().expect("a member connects");
    socket.set_nodelay(true).unwrap();
    let mut head = [0; HEAD_BYTES_MAX];
    let mut len = 0;
    while !head[..len].ends_with(b"\r\n\r\n") {
        let count = socket.read(&mut head[len..]).expect("a request");
        assert!(count > 0, "the head of a request is complete and short");
        len += count;
    }
    socket.write_all(ANSWER).expect("the member waits for its answer");
    socket
}

/// One submission for all sends, nothing else.
struct Batch {
    ring: IoUring,
}

impl Batch {
    fn new(members: usize) -> Self {
        let entries = members.next_power_of_two() as u32;
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries.min(32_768));
        Self { ring: ring.expect("io_uring") }
    }

    #[allow(unsafe_code)]
    fn send(&mut self, sockets: impl Iterator<Item = RawFd>, frame: &[u8]) {
        let mut sent = 0;
        for socket in sockets {
            let entry = opcode::Send::new(types::Fd(socket), frame.as_ptr(), frame.len() as u32)
                .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                .build();
            // SAFETY: the frame outlives the call, which waits for every completion below.
            unsafe { self.ring.submission().push(&entry) }.expect("as many entries as members");
            sent += 1;
        }
        self.ring.submit_and_wait(sent).expect("submit");
        for completion in self.ring.completion() {
            assert_eq!(completion.result(), frame.len() as i32, "send");
            sent -= 1;
        }
        assert_eq!(sent, 0, "every send completes");
    }
}
