//! Attention of rows that lie one behind the other, by `FlashAttention` 2 (Dao, 2023).

use std::{
    collections::BTreeMap,
    ffi::c_char,
    sync::{Mutex, PoisonError},
};

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

use super::check;

unsafe extern "C" {
    fn fedward_flash_attention(
        results: *mut *mut C_tensor,
        query: *const C_tensor,
        key: *const C_tensor,
        value: *const C_tensor,
        query_starts: *const C_tensor,
        longest_query: i64,
        key_starts: *const C_tensor,
        longest_key: i64,
        key_lengths: *const C_tensor,
        scale: f64,
        window: i64,
    ) -> *mut c_char;
}

/// Whether a device has what [`flash_attention`] and [`flash_attention_cached`] need: CUDA, the architecture Ampere or a newer
/// one, and a libtorch that was built with it.
pub fn has_flash_attention(device: Device) -> bool {
    device.is_cuda() && flash_attention_refusal(device).is_none()
}

/// Why a CUDA device does not do that, if it does not. It is tried out once, and again where there was no memory
/// to try it.
pub fn flash_attention_refusal(device: Device) -> Option<String> {
    static TRIED: Mutex<BTreeMap<usize, Option<String>>> = Mutex::new(BTreeMap::new());
    let Device::Cuda(index) = device else { return Some(format!("{device:?} is no CUDA device")) };
    let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(refusal) = tried.get(&index) {
        return refusal.clone();
    }
    let refusal = try_out(device).err().map(|error| error.to_string());
    if !refusal.as_ref().is_some_and(|text| text.contains("out of memory")) {
        tried.insert(index, refusal.clone());
    }
    refusal
}

/// Attends from one token to itself, forward and backward, and as in a cache.
fn try_out(device: Device) -> Result<(), TchError> {
    let token = || Tensor::f_zeros([1, 1, 64], (Kind::BFloat16, device));
    let rows = FlashRows { starts: Tensor::f_from_slice(&[0_i32, 1])?.f_to_device(device)?, longest: 1 };
    let scores = FlashScores { scale: 1.0, window: None };
    let operands = FlashOperands { query: token()?, key: token()?, value: token()? };
    let (_, tape) = flash_attention(operands, &rows, scores)?;
    let _ = flash_attention_backward(&token()?, &tape, &rows, scores)?;
    let lengths = Tensor::f_from_slice(&[1_i32])?.f_to_device(device)?;
    let cached = CachedRows { queries: rows.starts.shallow_clone(), starts: rows.starts, lengths };
    let operands = FlashOperands { query: token()?, key: token()?, value: token()? };
    let _ = flash_attention_cached(&operands, &cached, 1, scores)?;
    Ok(())
}

/// Rows that lie one behind the other, for [`flash_attention`].
#[derive(Debug)]
pub struct FlashRows {
    /// Where each row begins, and where the last one ends.
    ///
    /// # Shapes
    ///
    /// `[rows + 1]`, 32-bit integers on the device.
    pub starts: Tensor,
    /// Tokens of the longest row.
    pub longest: i64,
}

/// Rows of a cache, each with one new token, for [`flash_attention_cached`].
///
/// # Shapes
///
/// 32-bit integers on the device.
#[derive(Debug)]
pub struct CachedRows {
    /// 0, 1, 2, …: one query a row.
    ///
    /// # Shapes
    ///
    /// `[rows + 1]`
    pub queries: Tensor,
    /// Where the tokens of each row begin, and where the last row's room ends.
    ///
    /// # Shapes
    ///
    /// `[rows + 1]`
    pub starts: Tensor,
    /// Tokens of each row, the new one included.
    ///
    /// # Shapes
    ///
    /// `[rows]`
    pub lengths: Tensor,
}

/// Queries, keys and values of all rows.
///
/// # Shapes
///
/// `query`: `[tokens, queries, head_dim]`; `key`, `value`: `[tokens, key_values, head_dim]`, each head contiguous.
#[derive(Debug)]
pub struct FlashOperands {
    /// Queries.
    pub query: Tensor,
    /// Keys.
    pub key: Tensor,
    /// Values.
    pub value: Tensor,
}

/// How scores are made.
#[derive(Clone, Copy, Debug)]
pub struct FlashScores {
    /// What products of queries and keys are multiplied by.
    pub scale: f64,
    /// Tokens that each token sees, itself included; all before it where there is no window.
    pub window: Option<i64>,
}

impl FlashScores {
    /// Tokens before it that a token sees.
    fn left(self) -> Option<i64> {
        self.window.map(|window| window - 1)
    }
}

/// What the backward pass of [`flash_attention`] needs.
#[derive(Debug)]
pub struct FlashTape {
    operands: FlashOperands,
    output: Tensor,
    log_sums: Tensor,
    /// Of a random generator that is not used, since nothing is dropped; the backward pass takes them all the same.
    states: [Tensor; 2],
}

/// Causal attention within each row (Dao, 2023), in bfloat16 on a CUDA device.
///
/// # Shapes
///
/// → `[tokens, queries, head_dim]`
///
/// # Errors
///
/// What libtorch complains of.
pub fn flash_attention(
    operands: FlashOperands,
    rows: &FlashRows,
    scores: FlashScores,
) -> Result<(Tensor, FlashTape), TchError> {
    let queries = QueryRows { starts: &rows.starts, longest: rows.longest };
    let keys = KeyRows { starts: &rows.starts, longest: rows.longest, lengths: None };
    let [output, log_sums, state, unused] = forward(&operands, queries, keys, scores)?;
    let tape = FlashTape { operands, output: output.shallow_clone(), log_sums, states: [state, unused] };
    Ok((output, tape))
}

/// Attention of each row's new token to the tokens of its row, of at most `longest` slots, in bfloat16 on a CUDA device.
///
/// # Shapes
///
/// `operands`: one query a row; keys and values of all slots of all rows → `[rows, queries, head_dim]`
///
/// # Errors
///
/// What libtorch complains of.
pub fn flash_attention_cached(
    operands: &FlashOperands,
    rows: &CachedRows,
    longest: i64,
    scores: FlashScores,
) -> Result<Tensor, TchError> {
    let queries = QueryRows { starts: &rows.queries, longest: 1 };
    let keys = KeyRows { starts: &rows.starts, longest, lengths: Some(&rows.lengths) };
    let [output, ..] = forward(operands, queries, keys, scores)?;
    Ok(output)
}

#[derive(Clone, Copy)]
struct QueryRows<'t> {
    starts: &'t Tensor,
    longest: i64,
}

#[derive(Clone, Copy)]
struct KeyRows<'t> {
    starts: &'t Tensor,
    longest: i64,
    /// Where rows end before the next ones start.
    lengths: Option<&'t Tensor>,
}

/// The output, logarithms of the softmax's sums, and two states of a random generator.
fn forward(
    FlashOperands { query, key, value }: &FlashOperands,
    queries: QueryRows,
    keys: KeyRows,
    scores: FlashScores,
) -> Result<[Tensor; 4], TchError> {
    let mut results = [std::ptr::null_mut(); 4];
    // SAFETY: all tensors live through the call, and the lengths may be null; on success each place of `results` holds a
    // tensor of its own.
    unsafe {
        check(fedward_flash_attention(
            results.as_mut_ptr(),
            query.as_ptr(),
            key.as_ptr(),
            value.as_ptr(),
            queries.starts.as_ptr(),
            queries.longest,
            keys.starts.as_ptr(),
            keys.longest,
            keys.lengths.map_or(std::ptr::null(), Tensor::as_ptr),
            scores.scale,
            scores.left().unwrap_or(-1),
        ))?;
        Ok(results.map(|result| Tensor::from_ptr(result)))
    }
}

/// Gradients of queries, keys and values.
///
/// # Shapes
///
/// `grad`: `[tokens, queries, head_dim]` → as [`FlashOperands`].
///
/// # Errors
///
/// What libtorch complains of.
pub fn flash_attention_backward(
    grad: &Tensor,
    tape: &FlashTape,
    rows: &FlashRows,
    scores: FlashScores,
) -> Result<[Tensor; 3], TchError> {
    let FlashTape { operands: FlashOperands { query, key, value }, output, log_sums, states: [state, unused] } = tape;
    let right = scores.window.map(|_| 0);
    let (query, key, value) = Tensor::f_internal_flash_attention_backward(
        grad,
        query,
        key,
        value,
        output,
        log_sums,
        &rows.starts,
        &rows.starts,
        rows.longest,
        rows.longest,
        0.0,
        true,
        state,
        unused,
        scores.scale,
        scores.left(),
        right,
    )?;
    Ok([query, key, value])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_cannot_do_is_an_error() {
        assert!(!has_flash_attention(Device::Cpu));
        // The exception of another language, caught where it must be.
        let error = try_out(Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("_flash_attention_forward"), "{error}");
    }
}
