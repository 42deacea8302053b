// Shows one CUDA device as several, or as an older one, to what loads libtorch 2.11: for trying out what is written for machines
// that one does not have. CONTRIBUTING.md says how.
//
// libtorch names devices by number to the CUDA runtime and, in one question, to the driver. The calls that computing takes are
// answered here (not those of memory pools, of memory shared by processes, and of pointers' devices); every number stands for device
// 0. libtorch itself refuses operations on tensors of different numbers. Most of its kernels are refused on a stream of another
// number than the thread's, as the runtime would. What cannot be seen so: memory of its own for each device, copies from one to
// the other, their speed, libraries that ask for the device by themselves (cuBLAS, cuDNN), and what an old device cannot do but
// libtorch does not ask for.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda.h>
#include <cuda_runtime_api.h>

#if CUDART_VERSION < 13000
#error "the headers of CUDA 13 are needed, as libtorch 2.11 has it: older ones give functions other names"
#endif
#ifndef __OPTIMIZE__
#error "compile with -O2: dlsym below must leave by a jump, so that the C library still sees who calls"
#endif

static __thread int current = 0;

// How many devices are shown, and their compute capability's major number (its minor is 0); 0: their own.
static int devices = 2;
static int major = 0;
// The one of the C library: this file has its own.
static __typeof__(&dlsym) real_dlsym;

static int number(const char *name, int otherwise, int least, int most) {
    const char *text = getenv(name);
    char *end;
    long found = text ? strtol(text, &end, 10) : otherwise;
    if (text && (!*text || *end || found < least || found > most)) {
        fprintf(stderr, "pretend_devices: %s: found \"%s\"; allowed: %d to %d\n", name, text, least, most);
        exit(2);
    }
    return (int)found;
}

__attribute__((constructor)) static void read_settings(void) {
    devices = number("PRETEND_DEVICES", 2, 1, 64);
    major = number("PRETEND_MAJOR", 0, 0, 99);
}

static __typeof__(&dlsym) the_real_dlsym(void) {
    // Others may look for functions before this library's constructor has run; whoever comes first finds the same.
    if (!real_dlsym)
        real_dlsym = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    return real_dlsym;
}

// Whatever is loaded as `library` by now.
static void *of(const char *library, const char *name) {
    void *handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    void *found = handle ? the_real_dlsym()(handle, name) : NULL;
    if (!found) {
        fprintf(stderr, "pretend_devices: no %s in %s\n", name, library);
        abort();
    }
    return found;
}

#define REAL(name) ((__typeof__(&name))of("libcudart.so.13", #name))
#define REAL_DRIVER(name) ((__typeof__(&name))of("libcuda.so.1", #name))

static int known(int device) { return device >= 0 && device < devices; }

cudaError_t cudaGetDeviceCount(int *count) {
    cudaError_t error = REAL(cudaGetDeviceCount)(count);
    if (error == cudaSuccess && *count > 0)
        *count = devices;
    return error;
}

cudaError_t cudaGetDevice(int *device) {
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (!known(device))
        return cudaErrorInvalidDevice;
    cudaError_t error = REAL(cudaSetDevice)(0);
    if (error == cudaSuccess)
        current = device;
    return error;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    if (!known(device))
        return cudaErrorInvalidDevice;
    cudaError_t error = REAL(cudaGetDeviceProperties)(properties, 0);
    if (error == cudaSuccess && major) {
        properties->major = major;
        properties->minor = 0;
    }
    return error;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    if (!known(device))
        return cudaErrorInvalidDevice;
    cudaError_t error = REAL(cudaDeviceGetAttribute)(value, attribute, 0);
    if (error == cudaSuccess && major) {
        if (attribute == cudaDevAttrComputeCapabilityMajor)
            *value = major;
        else if (attribute == cudaDevAttrComputeCapabilityMinor)
            *value = 0;
    }
    return error;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = known(device) && known(peer);
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    (void)flags;
    return known(peer) ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t count, cudaStream_t stream) {
    if (!known(to_device) || !known(from_device))
        return cudaErrorInvalidDevice;
    return REAL(cudaMemcpyAsync)(to, from, count, cudaMemcpyDeviceToDevice, stream);
}

static CUresult primary_context_state(CUdevice device, unsigned *flags, int *active) {
    return known(device) ? REAL_DRIVER(cuDevicePrimaryCtxGetState)(0, flags, active) : CUDA_ERROR_INVALID_DEVICE;
}

// libtorch finds the driver's functions that it asks here by name.
void *dlsym(void *library, const char *name) {
    if (!strcmp(name, "cuDevicePrimaryCtxGetState"))
        return (void *)primary_context_state;
    return the_real_dlsym()(library, name);
}

// Streams with the devices that they were made for: libtorch makes 32 of each priority a device and keeps them.
enum { MOST_STREAMS = 4096 };
static struct {
    cudaStream_t stream;
    int device;
} streams[MOST_STREAMS];
static atomic_int stream_count = 0;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    cudaError_t error = REAL(cudaStreamCreateWithPriority)(stream, flags, priority);
    pthread_mutex_lock(&lock);
    if (error == cudaSuccess && stream_count < MOST_STREAMS) {
        streams[stream_count].stream = *stream;
        streams[stream_count].device = current;
        stream_count++;
    }
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
    for (int place = 0; stream && place < stream_count; place++)
        if (streams[place].stream == stream && streams[place].device != current) {
            fprintf(stderr, "pretend_devices: a stream of device %d on device %d\n", streams[place].device, current);
            return cudaErrorInvalidResourceHandle;
        }
    return REAL(__cudaLaunchKernel)(kernel, grid, block, arguments, shared, stream);
}
