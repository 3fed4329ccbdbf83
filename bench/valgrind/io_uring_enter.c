/* Lets a program of several threads that sleep in io_uring_enter run under valgrind (3.19 and its neighbours).
 *
 * Valgrind runs one thread at a time, and does not know that io_uring_enter may block: it keeps its lock, so while one ring sleeps no other
 * thread of the program runs, and the broker never becomes ready. Preloaded, this does the same in calls that do not block, and sleeps in
 * ppoll, for which valgrind lets go. What is measured is the program as it is; the instructions of this object are left out of the count.
 *
 * The sleep is short and repeated because work that a ring has deferred to its thread does not always wake a poll. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

#define SLEEP_NANOSECONDS 200000L
#define FOREVER_NANOSECONDS (1L << 62)

typedef long (*system_call)(long, ...);

static long nanoseconds_of(const struct timespec *limit) {
  return limit ? limit->tv_sec * 1000000000L + limit->tv_nsec : FOREVER_NANOSECONDS;
}

/* The io_uring_enter of a sleeping ring, which always passes an extended argument (IORING_ENTER_EXT_ARG). */
static long enter(system_call real, long ring, long submissions, long flags, long argument, long size) {
  const struct io_uring_getevents_arg *asked = (const void *)argument;
  struct io_uring_getevents_arg at_once = {0};
  long left = nanoseconds_of((const void *)(uintptr_t)asked->ts);
  long unsent = submissions;
  while (left > 0) {
    struct pollfd completions = {.fd = (int)ring, .events = POLLIN};
    struct timespec sleep = {0, left < SLEEP_NANOSECONDS ? left : SLEEP_NANOSECONDS};
    long done = real(SYS_io_uring_enter, ring, unsent, 0L, flags, &at_once, size);
    if (done < 0) return done;
    unsent = 0;
    if (ppoll(&completions, 1, &sleep, 0) != 0) return submissions;
    left -= sleep.tv_nsec;
  }
  errno = ETIME;
  return -1;
}

long syscall(long number, ...) {
  static system_call real;
  va_list list;
  if (!real) real = (system_call)dlsym(RTLD_NEXT, "syscall");
  va_start(list, number);
  long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
  long d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
  va_end(list);
  /* A registered ring is known by a number that ppoll does not take; programs go on with the descriptor. */
  if (number == SYS_io_uring_register && b == IORING_REGISTER_RING_FDS) {
    errno = EINVAL;
    return -1;
  }
  if (number == SYS_io_uring_enter && c > 0) return enter(real, a, b, d, e, f);
  return real(number, a, b, c, d, e, f);
}
