# SPDX-License-Identifier: Apache-2.0
"""Which system calls a container may make by default, as data: what container runtimes allow whom
no profile of his own was written for.

The facts are containerd's: read from what containerd 1.6 hands to runc for `RuntimeDefault` (a test
reads it again and compares), for a container with the usual capabilities. Two things are as later
releases have them: io_uring is refused, and sockets of virtual machines (AF_VSOCK); and calls of
newer kernels are allowed whose older forms are. Knows nothing of notifications.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Allowed whatever their arguments, by subject. A name means nothing on processors without it.
ALLOWED: Mapping[str, str] = {
    "open and close files": """
        close close_range creat dup dup2 dup3 open openat openat2 pipe pipe2 memfd_create
        memfd_secret umask""",
    "read and write": """
        _llseek copy_file_range lseek pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readv
        sendfile sendfile64 splice tee vmsplice write writev""",
    "what is known of files": """
        access cachestat faccessat faccessat2 fstat fstat64 fstatat64 fstatfs fstatfs64 lstat
        lstat64 newfstatat readlink readlinkat stat stat64 statfs statfs64 statx""",
    "owner, mode, time": """
        chmod chown chown32 fchmod fchmodat fchmodat2 fchown fchown32 fchownat futimesat lchown
        lchown32 utime utimensat utimensat_time64 utimes""",
    "extended attributes": """
        fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr
        listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr
        setxattrat""",
    "directories and names": """
        chdir fchdir getcwd getdents getdents64 link linkat mkdir mkdirat mknod mknodat rename
        renameat renameat2 rmdir symlink symlinkat unlink unlinkat""",
    "room and durability": """
        fadvise64 fadvise64_64 fallocate fdatasync flock fsync ftruncate ftruncate64 readahead sync
        sync_file_range syncfs truncate truncate64""",
    "control of descriptors": "fcntl fcntl64 ioctl",
    "wait for descriptors": """
        _newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
        epoll_wait epoll_wait_old eventfd eventfd2 poll ppoll ppoll_time64 pselect6 pselect6_time64
        select signalfd signalfd4""",
    "changes of files": """
        fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch""",
    "asynchronous input and output": """
        io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit""",
    "memory": """
        brk madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect
        mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
        remap_file_pages""",
    "processes and threads": """
        execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getpgid getpgrp
        getpid getppid getrusage getsid gettid kill pause pidfd_open pidfd_send_signal prctl
        process_mrelease ptrace restart_syscall rseq set_robust_list set_thread_area
        set_tid_address setpgid setsid tgkill times tkill vfork wait4 waitid waitpid""",
    "locks": """
        futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake""",
    "signals": """
        rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask
        sigreturn""",
    "users, groups, capabilities": """
        capget capset chroot getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
        getgroups32 getresgid getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32
        setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid
        setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32""",
    "limits and scheduling": """
        getpriority getrlimit ioprio_get ioprio_set prlimit64 sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
        sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
        sched_setparam sched_setscheduler sched_yield setpriority setrlimit ugetrlimit""",
    "the own confinement": """
        landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp""",
    "time": """
        adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
        clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep
        setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
        timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
        timerfd_settime timerfd_settime64""",
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
        recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall
        socketpair""",
    "messages, semaphores, shared memory": """
        ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
        mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
        semtimedop_time64 shmat shmctl shmdt shmget""",
    "the machine": "getrandom sysinfo uname",
}

#: Allowed beside them, by libseccomp's name of the processor.
ALLOWED_ON: Mapping[str, str] = {
    "SCMP_ARCH_X86_64": "arch_prctl modify_ldt",
    "SCMP_ARCH_AARCH64": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls",
}

#: Flags of clone(2) that make namespaces (CLONE_NEW…).
NEW_NAMESPACES = 0x7E020000
#: What personality(2) may be set to: Linux, with PER_LINUX32, with UNAME26, with both; and asked.
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
AF_VSOCK = 40
