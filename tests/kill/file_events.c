/* Counts what a program does to the files below a folder, and at one of these events kills it or has the event fail.
 *
 * FILE_EVENTS_BELOW=/folder  the folder; nothing else is touched
 * FILE_EVENTS_LOG=/file      gets a line per event: number, operation, path
 * FILE_EVENTS_AT=17          the event that is struck, from 1
 * FILE_EVENTS_DO=            kill  SIGKILL instead of the event
 *                            half  SIGKILL after it; of a write, after half of its bytes
 *                            eio   this one event fails with EIO; a write after half of its bytes
 *                            full  from here on whatever needs room fails with ENOSPC, the first write after half of its bytes
 *
 * cc -O1 -shared -fPIC -o file_events.so file_events.c -ldl; LD_PRELOAD=./file_events.so fedward run …
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum outcome { GO_ON, HALF_THEN_KILL, FAIL_EIO, FAIL_FULL, FULL_BEFORE };

static const char *below, *action = "";
static long strike = -1;
static int log_fd = -1;
static atomic_long events;

__attribute__((constructor)) static void read_environment(void)
{
    const char *at = getenv("FILE_EVENTS_AT"), *log = getenv("FILE_EVENTS_LOG");
    below = getenv("FILE_EVENTS_BELOW");
    if (getenv("FILE_EVENTS_DO"))
        action = getenv("FILE_EVENTS_DO");
    if (at)
        strike = atol(at);
    if (log)
        log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int is_below(const char *path)
{
    size_t length = below ? strlen(below) : 0;
    return length && !strncmp(path, below, length) && (path[length] == '/' || !path[length]);
}

static int path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Counts an event, and says what is to come of it. */
static enum outcome event(const char *operation, const char *path, int needs_room)
{
    if (!is_below(path))
        return GO_ON;
    long number = atomic_fetch_add(&events, 1) + 1;
    if (log_fd >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", number, operation, path);
        syscall(SYS_write, log_fd, line, length);
    }
    if (strike > 0 && number > strike && !strcmp(action, "full") && needs_room)
        return FULL_BEFORE;
    if (number != strike)
        return GO_ON;
    if (!strcmp(action, "kill"))
        die();
    if (!strcmp(action, "half"))
        return HALF_THEN_KILL;
    if (!strcmp(action, "eio"))
        return FAIL_EIO;
    return !strcmp(action, "full") && needs_room ? FAIL_FULL : GO_ON;
}

static int failed(int error)
{
    errno = error;
    return -1;
}

/* An event that has no half: what is killed in it has happened, what fails has not. */
#define WHOLE(operation, path, needs_room, call)                                                                             \
    do {                                                                                                                     \
        enum outcome outcome_ = event(operation, path, needs_room);                                                          \
        if (outcome_ == FAIL_EIO)                                                                                            \
            return failed(EIO);                                                                                              \
        if (outcome_ == FAIL_FULL || outcome_ == FULL_BEFORE)                                                                \
            return failed(ENOSPC);                                                                                           \
        __typeof__(call) result_ = (call);                                                                                   \
        if (outcome_ == HALF_THEN_KILL)                                                                                      \
            die();                                                                                                           \
        return result_;                                                                                                      \
    } while (0)

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *joined(int folder, const char *path, char *buffer)
{
    if (path[0] == '/' || folder == AT_FDCWD || !path_of(folder, buffer))
        return path;
    size_t length = strlen(buffer);
    snprintf(buffer + length, PATH_MAX - length, "/%s", path);
    return buffer;
}

static int open_at(int folder, const char *path, int flags, mode_t mode)
{
    char buffer[PATH_MAX];
    if ((flags & O_ACCMODE) == O_RDONLY && !(flags & (O_CREAT | O_TRUNC)))
        return syscall(SYS_openat, folder, path, flags, mode);
    WHOLE("open", joined(folder, path, buffer), flags & O_CREAT, (int)syscall(SYS_openat, folder, path, flags, mode));
}

#define MODE_OF(flags, mode)                                                                                                 \
    mode_t mode = 0;                                                                                                         \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                                   \
        va_list rest;                                                                                                        \
        va_start(rest, flags);                                                                                               \
        mode = va_arg(rest, mode_t);                                                                                         \
        va_end(rest);                                                                                                        \
    }

int open(const char *path, int flags, ...) { MODE_OF(flags, mode) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags, mode) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE_OF(flags, mode) return open_at(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE_OF(flags, mode) return open_at(folder, path, flags, mode); }

ssize_t write(int fd, const void *bytes, size_t count)
{
    char path[PATH_MAX];
    enum outcome outcome = below && path_of(fd, path) ? event("write", path, 1) : GO_ON;
    if (outcome == FULL_BEFORE)
        return failed(ENOSPC);
    if (outcome == GO_ON)
        return syscall(SYS_write, fd, bytes, count);
    ssize_t half = count / 2 ? syscall(SYS_write, fd, bytes, count / 2) : 0;
    if (outcome == HALF_THEN_KILL)
        die();
    (void)half;
    return failed(outcome == FAIL_EIO ? EIO : ENOSPC);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    char path[PATH_MAX];
    if (below && path_of(fd, path) && is_below(path) && count > 0)
        return write(fd, parts[0].iov_base, parts[0].iov_len);
    return REAL(writev)(fd, parts, count);
}

#define OF_FD(operation, fd, needs_room, call)                                                                               \
    do {                                                                                                                     \
        char path_[PATH_MAX];                                                                                                \
        if (!below || !path_of(fd, path_))                                                                                   \
            return call;                                                                                                     \
        WHOLE(operation, path_, needs_room, call);                                                                           \
    } while (0)

int fsync(int fd) { OF_FD("fsync", fd, 0, REAL(fsync)(fd)); }
int fdatasync(int fd) { OF_FD("fdatasync", fd, 0, REAL(fdatasync)(fd)); }
int ftruncate(int fd, off_t size) { OF_FD("ftruncate", fd, 0, REAL(ftruncate)(fd, size)); }
int ftruncate64(int fd, off64_t size) { OF_FD("ftruncate", fd, 0, REAL(ftruncate64)(fd, size)); }
int rename(const char *from, const char *to) { WHOLE("rename", to, 0, REAL(rename)(from, to)); }
int unlink(const char *path) { WHOLE("unlink", path, 0, REAL(unlink)(path)); }
int rmdir(const char *path) { WHOLE("rmdir", path, 0, REAL(rmdir)(path)); }
int mkdir(const char *path, mode_t mode) { WHOLE("mkdir", path, 1, REAL(mkdir)(path, mode)); }

int unlinkat(int folder, const char *path, int flags)
{
    char buffer[PATH_MAX];
    WHOLE("unlinkat", joined(folder, path, buffer), 0, REAL(unlinkat)(folder, path, flags));
}

/* Fewer ways of copying than there are, so that a copy is reads and writes. */
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t count, unsigned flags)
{
    (void)in, (void)in_at, (void)out, (void)out_at, (void)count, (void)flags;
    return failed(ENOSYS);
}
