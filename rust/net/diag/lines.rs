// SPDX-License-Identifier: GPL-2.0

//! The file in `/proc/net`, one socket a line.

use super::{
    length,
    words,
    View, //
};
use crate::{
    bindings,
    net::{
        ops::Protocol,
        pernet::PerNet,
        proc,
        sock::TcpState, //
    },
    prelude::*, //
};
use core::{
    net::SocketAddr,
    ptr::null_mut, //
};
use kernel::{
    error::from_err_ptr,
    fmt,
    seq_file::SeqFile,
    seq_print, //
};

/// Functions of a [`File`](crate::net::proc::File) of a `P::PerNet`, which has a line for each
/// socket.
pub(in crate::net) const fn lines<P: Protocol>() -> &'static bindings::seq_operations {
    const { &Lines::<P>::OPS }
}

/// The line that is being read.
struct Lines<P: Protocol> {
    number: u64,
    view: View<P>,
}

impl<P: Protocol> Lines<P> {
    const OPS: bindings::seq_operations = bindings::seq_operations {
        start: Some(Self::start),
        stop: Some(Self::stop),
        next: Some(Self::next),
        show: Some(Self::show),
    };

    /// Stands for the heading.
    const NAMES: *mut c_void = core::ptr::without_provenance_mut(1);

    /// The first line from a number on.
    fn look(here: &P::PerNet, mut from: u64) -> Option<Self> {
        loop {
            let (number, socket) = here.next(from)?;
            if let Some(view) = socket.view().filter(|view| view.state != TcpState::Close) {
                return Some(Self { number, view });
            }
            from = number.saturating_add(1);
        }
    }

    /// # Safety
    ///
    /// `seq_file` calls it with a file of ours. What it gives goes to `next` or `stop`, once.
    unsafe extern "C" fn start(
        seq: *mut bindings::seq_file,
        at: *mut bindings::loff_t,
    ) -> *mut c_void {
        // SAFETY: By the contract.
        let from = unsafe { *at };
        let from = match u64::try_from(from) {
            Ok(0) | Err(_) => return Self::NAMES,
            Ok(from) => from,
        };
        // SAFETY: By the contract, and that of `lines()`.
        let Some(line) = Self::look(unsafe { proc::value::<P::PerNet>(seq) }, from) else {
            return null_mut();
        };
        let number = line.number;
        match KBox::new(line, GFP_KERNEL) {
            Ok(line) => {
                // SAFETY: By the contract. CAST: It is a count, which does not come that far.
                unsafe { *at = number as bindings::loff_t };
                KBox::into_raw(line).cast()
            }
            Err(_) => ENOMEM.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// `seq_file` calls it with a file of ours, and what `start` or this gave.
    unsafe extern "C" fn next(
        seq: *mut bindings::seq_file,
        line: *mut c_void,
        at: *mut bindings::loff_t,
    ) -> *mut c_void {
        // SAFETY: By the contract.
        unsafe {
            Self::stop(seq, line);
            *at = (*at).saturating_add(1).max(1);
            Self::start(seq, at)
        }
    }

    /// # Safety
    ///
    /// `seq_file` calls it with a file of ours, and what `start` or `next` gave.
    unsafe extern "C" fn stop(_seq: *mut bindings::seq_file, line: *mut c_void) {
        let Ok(line) = from_err_ptr(line) else { return };
        if line.is_null() || line == Self::NAMES {
            return;
        }
        // SAFETY: By the contract it came of `start`, and nobody uses it any more.
        drop(unsafe { KBox::from_raw(line.cast::<Self>()) });
    }

    /// # Safety
    ///
    /// `seq_file` calls it with a file of ours, and what `start` or `next` gave.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, line: *mut c_void) -> c_int {
        // SAFETY: By the contract.
        let to = unsafe { SeqFile::from_raw(seq) };
        if line == Self::NAMES {
            seq_print!(
                to,
                "  sl  local_address rem_address     uid inode   rx_queue:tx_queue state\n"
            );
            return 0;
        }
        // SAFETY: By the contract it is a line, which is only read now.
        let line = unsafe { &*line.cast::<Self>() };
        let view = &line.view;
        // SAFETY: The file is open.
        let uid = unsafe { bindings::sdp_helper_seq_uid(seq, view.uid) };
        let inode = view.sock.as_ref().map_or(0, |sk| sk.inode());
        seq_print!(
            to,
            "{:4}: {} {} {:5} {:5} {:08X}:{:08X} {:02X}\n",
            line.number,
            Hex(view.shown(view.local)),
            Hex(view.shown(view.peer)),
            uid,
            inode,
            length(view.recv_queue),
            length(view.send_queue),
            view.state as u8,
        );
        0
    }
}

/// An address as inet's files in `/proc/net` show it: its words in the byte order of the processor.
struct Hex(SocketAddr);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, count) = words(self.0.ip());
        for word in words.iter().take(count) {
            f.write_fmt(fmt!("{word:08X}"))?;
        }
        f.write_fmt(fmt!(":{:04X}", self.0.port()))
    }
}
