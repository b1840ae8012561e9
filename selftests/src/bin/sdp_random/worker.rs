// SPDX-License-Identifier: GPL-2.0

//! A thread that makes one random call after the other.

use crate::{
    memory::{
        Data,
        Scratch, //
    },
    shared::{
        Call,
        Seat,
        Shared, //
    },
    steps::KINDS,
};
use io_uring::IoUring;
use sdp_selftests::random::Random;
use std::sync::atomic::{
    AtomicI32,
    Ordering::Relaxed, //
};

/// `AF_INET6_SDP`.
pub(crate) const AF_INET6_SDP: libc::c_int = 28;

/// What a file of a process is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Socket,
    Listener,
    Pipe,
    Epoll,
    File,
}

/// The files of a process, for all of its threads: any of them may close any at any time, so that a
/// number may mean another file by the time that it is used.
pub(crate) struct Files([AtomicI32; 36]);

impl Files {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicI32::new(-1) }; 36])
    }

    fn places(&self, of: Of) -> &[AtomicI32] {
        match of {
            Of::Socket => &self.0[..20],
            Of::Listener => &self.0[20..24],
            Of::Pipe => &self.0[24..30],
            Of::Epoll => &self.0[30..33],
            Of::File => &self.0[33..],
        }
    }

    /// Takes them all out.
    pub(crate) fn drain(&self) -> impl Iterator<Item = libc::c_int> + '_ {
        self.0.iter().map(|place| place.swap(-1, Relaxed))
    }
}

/// A thread, or the process that one forked.
pub(crate) struct Worker {
    pub(crate) shared: &'static Shared,
    pub(crate) seat: &'static Seat,
    /// Where the process that it forks sits, unless it was forked itself.
    pub(crate) forked: Option<&'static Seat>,
    pub(crate) files: &'static Files,
    pub(crate) random: Random,
    pub(crate) scratch: Scratch,
    pub(crate) data: Data,
    pub(crate) ring: Option<IoUring>,
    /// A pair of Unix sockets that all processes have, to pass files through.
    pub(crate) passage: [libc::c_int; 2],
    pub(crate) family: libc::c_int,
    /// Whether it may do anything.
    pub(crate) root: bool,
    /// The process that it forked last, until that was waited for.
    pub(crate) child: Option<libc::pid_t>,
    pub(crate) step: u64,
    pub(crate) kind: usize,
}

impl Worker {
    /// Makes random calls until the supervisor says stop, or `steps` times.
    pub(crate) fn run(&mut self, steps: u64) {
        self.seat.take();
        let weights = KINDS.iter().map(|kind| kind.weight).sum::<usize>();
        for _ in 0..steps {
            if self.shared.stop.load(Relaxed) {
                break;
            }
            self.step += 1;
            self.scratch.clear();
            let mut chosen = self.within(0, weights - 1);
            let found = KINDS.iter().position(|kind| {
                let here = chosen < kind.weight;
                chosen = chosen.wrapping_sub(kind.weight);
                here
            });
            self.kind = found.expect("the number is below the sum");
            (KINDS[self.kind].run)(self);
        }
        self.seat.leave();
    }

    /// Notes a call that `make` makes, and its result.
    pub(crate) fn note(
        &mut self,
        number: libc::c_long,
        args: [usize; 6],
        make: impl FnOnce(&mut Self) -> isize,
    ) -> isize {
        self.seat.begin(&Call {
            step: self.step,
            kind: self.kind,
            number,
            args,
        });
        let result = make(self);
        self.seat.end(result);
        self.shared.counts[self.kind].add(result);
        result
    }

    /// Makes a system call: its result, or a negative error number.
    ///
    /// The callers see to it that it writes to no memory of this process but data, scratch, and
    /// where there is none.
    pub(crate) fn call<const N: usize>(&mut self, number: libc::c_long, args: [usize; N]) -> isize {
        let mut all = [0; 6];
        all[..N].copy_from_slice(&args);
        self.note(number, all, |_| {
            let [a, b, c, d, e, f] = all;
            // SAFETY: By the rule above nothing that Rust knows of is written to.
            match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
                -1 => -(std::io::Error::last_os_error().raw_os_error().unwrap_or(0) as isize),
                result => result as isize,
            }
        })
    }

    fn place(&mut self, of: Of) -> &'static AtomicI32 {
        let of = match self.chance(96) {
            true => of,
            false => self.one_of(&[Of::Socket, Of::Listener, Of::Pipe, Of::Epoll, Of::File]),
        };
        let files = self.files;
        let places = files.places(of);
        &places[self.within(0, places.len() - 1)]
    }

    /// A file, of such a kind as a rule.
    pub(crate) fn file(&mut self, of: Of) -> usize {
        // As the kernel sees an `int`.
        self.place(of).load(Relaxed) as usize
    }

    /// Takes a file out, so that others do not find it there.
    pub(crate) fn take_file(&mut self, of: Of) -> usize {
        self.place(of).swap(-1, Relaxed) as usize
    }

    /// Puts a file in, if the call gave one, and closes what was in its place.
    pub(crate) fn keep(&mut self, of: Of, file: isize) {
        // Drawn in any case: what follows is not to depend on results.
        let place = self.place(of);
        if file >= 0 {
            let old = place.swap(file as libc::c_int, Relaxed);
            if old >= 0 {
                self.close(old as usize);
            }
        }
    }

    pub(crate) fn close(&mut self, file: usize) {
        self.call(libc::SYS_close, [file]);
    }
}
