//! What rings of tests leave to the real one.

/// The methods of `DataRing` that a ring of a test hands on unchanged to the real ring in its field `ring`.
macro_rules! forward_to_ring {
    () => {
        type Socket = Socket;

        fn adopt(&mut self, token: u32, socket: Socket) {
            self.ring.adopt(token, socket);
        }

        fn release(&mut self, token: u32) {
            self.ring.release(token);
        }

        fn receive(&mut self, token: u32, how: Receive) {
            self.ring.receive(token, how);
        }

        fn cancel(&mut self, token: u32) {
            self.ring.cancel(token);
        }

        fn await_writable(&mut self, token: u32) {
            self.ring.await_writable(token);
        }

        fn shutdown(&mut self, token: u32, how: Shutdown) {
            self.ring.shutdown(token, how);
        }

        fn arm_wakeups(&mut self) -> bool {
            self.ring.arm_wakeups()
        }

        fn buffers(&self) -> &BufferPool {
            self.ring.buffers()
        }

        fn descriptor(&self, token: u32) -> RawFd {
            self.ring.descriptor(token)
        }

        fn peer_has_ended(descriptor: RawFd) -> bool {
            AnyRing::peer_has_ended(descriptor)
        }
    };
}
