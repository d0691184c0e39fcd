// SPDX-License-Identifier: Apache-2.0
// Makes the calls that are answered, in every way that a program may, and prints what came back.
// Arguments: `mask`, `threads` (OpenMP), `errors`, `others`, `sysinfo`, `narrow` (as 32-bit callers
// do, on x86-64), `storm NUMBER` (all answers of this many must be alike), `slow` (into memory that
// never comes). It is compiled with glibc, and with musl.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef WITH_KERNEL_HEADERS
#include <fcntl.h>
#include <linux/userfaultfd.h>
#endif

static uint64_t masks[1024];

static long ask(long pid, unsigned long length, void *address) {
    long got = syscall(SYS_sched_getaffinity, pid, length, address);
    return got < 0 ? -errno : got;
}

static int mask(void) {
    long got = ask(0, sizeof masks, masks);
    printf("%ld %llx\n", got, (unsigned long long)masks[0]);
    return 0;
}

static void wrong(const char *what, long pid, unsigned long length, void *address) {
    printf("%s %ld\n", what, ask(pid, length, address));
}

static int errors(void) {
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    void *fixed = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *closed = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned long lengths[] = {0, 1, 4, 7, 8, 12, 16, 20, 24, 40, 4096, 8192, 1UL << 29, 1UL << 32,
                               (1UL << 32) + 8, (1UL << 32) - 8, 1UL << 31};
    for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        printf("%lu: ", lengths[i]);
        wrong("", 0, lengths[i], masks);
    }
    wrong("no address", 0, 128, NULL);
    wrong("bad address", 0, 128, (void *)-8);
    wrong("read-only", 0, 128, fixed);
    wrong("closed", 0, 128, closed);
    wrong("to the end", 0, 8, page + 4096 - 8);
    wrong("over the end", 0, 128, page + 4096 - 8);
    wrong("unaligned", 0, 128, (char *)masks + 3);
    wrong("minus one", -1, 128, masks);
    wrong("nobody", 4194303, 128, masks);
    wrong("more than a pid", 1L << 32, 128, masks);
    printf("sysinfo %ld", syscall(SYS_sysinfo, NULL));
    printf(" %d\n", errno);
    printf("sysinfo %ld", syscall(SYS_sysinfo, fixed));
    printf(" %d\n", errno);
    return 0;
}

static void *same(void *none) {
    (void)none;
    printf("thread %ld\n", ask(syscall(SYS_gettid), 128, masks));
    printf("%llx\n", (unsigned long long)masks[0]);
    return NULL;
}

static int others(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, same, NULL);
    pthread_join(thread, NULL);
    long who[] = {getpid(), getppid(), 1};
    for (int i = 0; i < 3; i++) {
        long got = ask(who[i], 128, masks);
        printf("%ld %llx\n", got, (unsigned long long)masks[0]);
    }
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    long got = ask(child, 128, masks);
    printf("%ld %llx\n", got, (unsigned long long)masks[0]);
    kill(child, 9);
    waitpid(child, NULL, 0);
    cpu_set_t one;
    got = ask(0, 128, masks);
    CPU_ZERO(&one);
    CPU_SET(__builtin_ctzll(masks[0]), &one);
    printf("pinned %d", sched_setaffinity(0, sizeof one, &one));
    ask(0, 128, masks);
    printf(" %d\n", __builtin_popcountll(masks[0]));
    return 0;
}

static int information(void) {
    struct sysinfo info;
    memset(&info, 0xff, sizeof info);
    if (sysinfo(&info))
        return 1;
    printf("%ld %lu %lu %lu %lu %lu %u %u\n", info.uptime, info.totalram, info.freeram,
           info.bufferram, info.totalswap, info.freeswap, info.procs, info.mem_unit);
    return 0;
}

#ifdef __x86_64__
static long narrow_call(long number, long first, long second, long third) {
    long got;
    __asm__ volatile("int $0x80" : "=a"(got) : "a"(number), "b"(first), "c"(second), "d"(third)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)got;
}

static int narrow(void) {
    uint32_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    long got = narrow_call(242, 0, 4, (long)page);
    printf("%ld %x\n", got, page[0]);
    got = narrow_call(242, 0, 6, (long)page);
    printf("%ld ", got);
    memset(page, 0xff, 4096);
    got = narrow_call(116, (long)page, 0, 0);
    printf("%ld %u %u %u %x\n", got, page[4], page[13], ((uint16_t *)page)[20], page[16]);
    return 0;
}
#endif

static int storm(int number) {
    long first = ask(0, 128, masks), different = 0;
    uint64_t seen = masks[0];
    for (int i = 0; i < number; i++) {
        struct sysinfo info;
        masks[0] = 0;
        different += ask(0, 128, masks) != first || masks[0] != seen || sysinfo(&info) != 0;
    }
    printf("%llx %ld\n", (unsigned long long)seen, different);
    return 0;
}

#ifdef WITH_KERNEL_HEADERS
static int slow(void) {
    struct uffdio_api api = {.api = UFFD_API};
    int descriptor = syscall(SYS_userfaultfd, O_CLOEXEC);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register never = {.range = {(uintptr_t)page, 4096},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (descriptor < 0 || ioctl(descriptor, UFFDIO_API, &api) ||
        ioctl(descriptor, UFFDIO_REGISTER, &never))
        return 1;
    printf("asks\n");
    fflush(stdout);
    return ask(0, 128, page) < 0;
}
#endif

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "mask"))
        return mask();
#ifdef _OPENMP
    if (!strcmp(what, "threads"))
        return printf("%d\n", omp_get_max_threads()) < 0;
#endif
    if (!strcmp(what, "errors"))
        return errors();
    if (!strcmp(what, "others"))
        return others();
    if (!strcmp(what, "sysinfo"))
        return information();
#ifdef __x86_64__
    if (!strcmp(what, "narrow"))
        return narrow();
#endif
    if (!strcmp(what, "storm"))
        return storm(atoi(words[2]));
#ifdef WITH_KERNEL_HEADERS
    if (!strcmp(what, "slow"))
        return slow();
#endif
    return 2;
}
