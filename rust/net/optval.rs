// SPDX-License-Identifier: GPL-2.0

//! The values of socket options: `optval` and `optlen` of the two calls.

use crate::{
    bindings,
    prelude::*, //
};
use core::marker::PhantomData;
use kernel::{
    transmute::AsBytes,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// What a `setsockopt(2)` call sets an option to.
#[derive(Clone, Copy)]
pub(crate) struct OptionValue<'a> {
    value: bindings::sockptr_t,
    len: usize,
    _call: PhantomData<&'a ()>,
}

impl<'a> OptionValue<'a> {
    /// One of the kernel's own.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let mut value = bindings::sockptr_t::default();
        value.__bindgen_anon_1.kernel = bytes.as_ptr().cast_mut().cast();
        value.set_is_kernel(true);
        Self {
            value,
            len: bytes.len(),
            _call: PhantomData,
        }
    }

    /// # Safety
    ///
    /// `value` is that of a call that lasts for `'a`; of kernel memory, it is `len` bytes.
    pub(super) unsafe fn new(value: bindings::sockptr_t, len: c_uint) -> Self {
        Self {
            value,
            // CAST: `usize` has at least 32 bits.
            len: len as usize,
            _call: PhantomData,
        }
    }

    /// It as C has it.
    pub(super) fn raw(self) -> (bindings::sockptr_t, c_uint) {
        // CAST: It was one.
        (self.value, self.len as c_uint)
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Its first bytes. Fails with `EINVAL` where there are not as many, and `EFAULT`. Sleeps.
    pub(crate) fn bytes<const N: usize>(&self) -> Result<[u8; N]> {
        if self.len < N {
            return Err(EINVAL);
        }
        let mut bytes = [0; N];
        self.copy_to(&mut bytes)?;
        Ok(bytes)
    }

    /// It as an integer. Fails as [`Self::bytes`] does.
    pub(crate) fn int(&self) -> Result<c_int> {
        self.bytes().map(c_int::from_ne_bytes)
    }

    /// Whether there is none, whatever its length.
    pub(super) fn is_null(&self) -> bool {
        // SAFETY: Both are pointers.
        unsafe { self.value.__bindgen_anon_1.user.is_null() }
    }

    /// It as a name, cut to what there is room for, and filled up with zeroes. Fails with `EINVAL`
    /// where it is empty, and `EFAULT`. Sleeps.
    pub(crate) fn name<const N: usize>(&self) -> Result<[u8; N]> {
        let mut name = [0; N];
        let len = self.len.min(N.saturating_sub(1));
        let room = name.get_mut(..len).unwrap_or(&mut []);
        if room.is_empty() {
            return Err(EINVAL);
        }
        self.copy_to(room)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(N);
        name.iter_mut().skip(end).for_each(|byte| *byte = 0);
        Ok(name)
    }

    /// `to` is no longer than the value.
    fn copy_to(&self, to: &mut [u8]) -> Result {
        // SAFETY: `to` has the room, and the value is as long; a `sockptr_t` knows whether it is
        // the caller's memory.
        let failed = unsafe {
            bindings::sdp_helper_copy_from_sockptr(to.as_mut_ptr().cast(), self.value, to.len())
        };
        match failed {
            0 => Ok(()),
            _ => Err(EFAULT),
        }
    }
}

/// Where a `getsockopt(2)` call wants the value of an option.
pub(crate) struct OptionRoom {
    value: UserPtr,
    len: UserPtr,
    room: usize,
}

impl OptionRoom {
    /// Reads how much room there is. Sleeps. Fails with `EINVAL` where that is negative, and with
    /// `EFAULT`.
    pub(super) fn new(value: UserPtr, len: UserPtr) -> Result<Self> {
        let room: c_int = UserSlice::new(len, size_of::<c_int>()).reader().read()?;
        Ok(Self {
            value,
            len,
            room: usize::try_from(room).map_err(|_| EINVAL)?,
        })
    }

    /// It as C has it.
    pub(super) fn raw(self) -> (*mut c_char, *mut c_int) {
        (self.value.as_mut_ptr().cast(), self.len.as_mut_ptr().cast())
    }

    /// Stores `value` for the caller, truncated to the room, and its length. Sleeps. Fails with
    /// `EFAULT`.
    pub(crate) fn give(self, value: &impl AsBytes) -> Result {
        let bytes = value.as_bytes();
        let bytes = bytes.get(..self.room).unwrap_or(bytes);
        UserSlice::new(self.len, size_of::<c_int>())
            .writer()
            .write(&c_int::try_from(bytes.len())?)?;
        UserSlice::new(self.value, bytes.len())
            .writer()
            .write_slice(bytes)
    }
}
