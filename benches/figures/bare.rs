//! Fan-out with nothing around it: a loop of `send(2)`, and the floor, one io_uring submission for all sends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, opcode, types};

use crate::frames::Frames;

/// The bare servers: they accept the members and a control connection, and for each number that comes through it they
/// send the frame to every member, with nothing around it.
pub(crate) fn serve(kind: &str, members: usize, frames: Frames) {
    hi::os::raise_file_limit().unwrap();
    hi::os::pin_to_core(hi::os::allowed_cores().unwrap()[0]).unwrap();
    let listener = hi::os::bind_shards(([127, 0, 0, 1], 0).into(), 1).unwrap().pop().unwrap();
    println!("{}", listener.local_addr().unwrap());
    let sockets: Vec<TcpStream> = (0..members).map(|_| accept(&listener)).collect();
    let mut control = accept(&listener);
    let mut batch = (kind == "io_uring").then(|| Batch::new(members));
    let mut message = [0; 4];
    while control.read_exact(&mut message).is_ok() {
        let frame = frames.frame(u32::from_be_bytes(message));
        match &mut batch {
            Some(batch) => batch.send(sockets.iter().map(AsRawFd::as_raw_fd), &frame),
            None => {
                for mut socket in &sockets {
                    socket.write_all(&frame).expect("send");
                }
            }
        }
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (socket, _) = listener.accept().expect("a member comes");
    socket.set_nodelay(true).unwrap();
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
