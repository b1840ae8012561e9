// SPDX-License-Identifier: GPL-2.0

//! What one Data message costs each end, for an instruction counter to look at: see `tools/bench-proto`.

use sdp_proto::{
    Config,
    Machine,
    Side,
    Transmit, //
};
use std::hint::black_box;

fn config(side: Side) -> Config {
    Config {
        side,
        max_adverts: 4,
        ord: 4,
        ird: 4,
        recv_size: 16384,
        recv_depth: 64,
        send_size: 16384,
        desired_remote: 16384,
    }
}

/// From the user's write to the header of its message.
#[inline(never)]
fn send_one(machine: &mut Machine, bytes: usize) -> Transmit {
    machine.write(bytes);
    machine.push();
    machine.poll_transmit().expect("no credit")
}

/// The fabric's word that the message has arrived.
#[inline(never)]
fn complete_one(machine: &mut Machine, transmit: &Transmit) {
    machine.sent(transmit.tag);
    black_box(machine.take_events());
}

/// A message, and its buffer's return to the ring.
#[inline(never)]
fn receive_one(machine: &mut Machine, message: &[u8]) {
    let received = machine.received(message).expect("violation");
    black_box(received);
    machine.posted(1);
    black_box(machine.take_events());
}

/// The look for something to say, which in most cases there is not.
#[inline(never)]
fn answer_one(machine: &mut Machine) -> Option<Transmit> {
    machine.poll_transmit()
}

fn main() {
    let mut a = Machine::new(config(Side::Connecting)).expect("config");
    let mut b = Machine::new(config(Side::Accepting)).expect("config");
    let ack = b.hello_received(&a.hello()).expect("hello");
    a.hello_ack_received(&ack).expect("hello ack");
    b.established();
    let mut message = [0; 1016];
    for _ in 0..10_000 {
        let transmit = send_one(&mut a, message.len() - 16);
        message[..16].copy_from_slice(transmit.header.as_bytes());
        complete_one(&mut a, &transmit);
        receive_one(&mut b, &message);
        if let Some(update) = answer_one(&mut b) {
            b.sent(update.tag);
            a.received(update.header.as_bytes()).expect("update");
            a.posted(1);
        }
    }
}
