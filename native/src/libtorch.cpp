// What of libtorch `tch` does not wrap.
//
// Only the dispatcher and registries are called, which lie in libtorch_cpu and libc10: nothing here needs CUDA to compile,
// link or load.

#include <cstdlib>
#include <cstring>
#include <exception>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_fused_rms_norm_backward.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace {

/// What is said where there is no memory for a message.
char no_memory[] = "out of memory";

/// Runs `work`; a message that the caller frees if it throws, else null.
template <typename Work> char *caught(Work work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception &error) {
    char *message = strdup(error.what());
    return message ? message : no_memory;
  } catch (...) {
    char *message = strdup("an unknown exception");
    return message ? message : no_memory;
  }
}

/// As long as it lives, operations of its thread go past autograd to their kernels.
struct NoAutograd {
  c10::AutoGradMode mode{false};
  at::AutoDispatchBelowADInplaceOrView below;
};

} // namespace

extern "C" {

void *fedward_enter_no_autograd() { return new NoAutograd; }
void fedward_leave_no_autograd(void *guard) { delete static_cast<NoAutograd *>(guard); }

/// `key_lengths`, which can be null: tokens of each row of keys, where it ends before the next one starts.
/// `results`: the output, logarithms of the softmax's sums, and two states of the random generator.
char *fedward_flash_attention(
    at::Tensor **results, const at::Tensor *query, const at::Tensor *key, const at::Tensor *value,
    const at::Tensor *query_starts, int64_t longest_query, const at::Tensor *key_starts, int64_t longest_key,
    const at::Tensor *key_lengths, double scale, int64_t window) {
  return caught([&] {
    std::optional<int64_t> left, right;
    if (window >= 0) {
      left = window;
      right = 0;
    }
    std::optional<at::Tensor> used;
    if (key_lengths)
      used = *key_lengths;
    auto [output, log_sums, state, unused, mask] = at::_flash_attention_forward(
        *query, *key, *value, *query_starts, *key_starts, longest_query, longest_key, /*dropout_p=*/0.0,
        /*is_causal=*/true, /*return_debug_mask=*/false, scale, left, right, used);
    results[0] = new at::Tensor(output);
    results[1] = new at::Tensor(log_sums);
    results[2] = new at::Tensor(state);
    results[3] = new at::Tensor(unused);
  });
}

/// The gradient of the input of an RMS norm over the last dimension.
char *fedward_rms_norm_backward(
    at::Tensor **result, const at::Tensor *grad, const at::Tensor *input, const at::Tensor *inverse_rms,
    const at::Tensor *weight) {
  return caught([&] {
    auto gradients = at::_fused_rms_norm_backward(
        *grad, *input, {input->size(-1)}, *inverse_rms, *weight, {true, false});
    *result = new at::Tensor(std::get<0>(gradients));
  });
}

/// Bytes of a CUDA device that its allocator has held at most.
char *fedward_peak_device_bytes(int64_t *bytes, int32_t device) {
  return caught([&] {
    auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    *bytes = stats.reserved_bytes[0].peak;
  });
}

/// A stream of a CUDA device beside its default one.
char *fedward_new_stream(int64_t *id, int32_t device) {
  return caught([&] {
    c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    *id = guard.getStreamFromGlobalPool(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device))).id();
  });
}

/// Lets this thread's operations on a CUDA device go to a stream, and says to which they went before.
char *fedward_exchange_stream(int64_t *before, int64_t id, int32_t device) {
  return caught([&] {
    c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    c10::Device place(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    *before = guard.exchangeStream(c10::Stream(c10::Stream::UNSAFE, place, id)).id();
  });
}

/// Names the instructions that libtorch's kernels are chosen for, ended by a zero.
void fedward_cpu_capability(char *name, size_t length) {
  if (length == 0)
    return;
  name[0] = '\0';
  char *failure = caught([&] { std::strncpy(name, at::get_cpu_capability().c_str(), length - 1); });
  name[length - 1] = '\0';
  if (failure && failure != no_memory)
    std::free(failure);
}

void fedward_free_message(char *message) {
  if (message != no_memory)
    std::free(message);
}
}
