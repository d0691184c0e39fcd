/* SPDX-License-Identifier: Apache-2.0
 *
 * A simulated machine in C: the description rendered flat by `library.py` (NODESHARE_NVML_MACHINE) and the
 * state file of `gpu_plugin/simulated/state.py` (NODESHARE_NVML_STATE), followed at every call.
 * Knows no NVML type.
 */
#ifndef NODESHARE_MACHINE_H
#define NODESHARE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_GPUS = 64, MAX_SLICES = 32, MAX_MIG = 7, MAX_HOLDS = 4096, MAX_SYMBOLS = 64, MAX_XIDS = 4096, MAX_LIMITS = 256 };
enum mig { MIG_UNSUPPORTED, MIG_DISABLED, MIG_ENABLED };
enum kind { KIND_COMPUTE = 1, KIND_GRAPHICS = 2, KIND_MPS = 4 };

#define NOT_AVAILABLE UINT64_MAX /* memory of a process, a limit, a start time: none */

struct slice {
    char uuid[96], profile[32];
    unsigned index, gpu_instance, compute_instance, gpu_slices, compute_slices;
    uint64_t total, reserved;
    bool removed, made;
};

struct gpu {
    char uuid[96], model[96], pci[32];
    unsigned index, minor;
    int numa; /* -1: unknown */
    uint64_t total, reserved;
    enum mig mig, described_mig;
    unsigned busy, memory_busy; /* percent */
    unsigned hang_ms, action;   /* action: what NVML calls the recovery action */
    bool lost, unplugged, deaf, repair;
    unsigned slices;
    struct slice slice[MAX_SLICES];
};

struct hold {
    char uuid[96];
    unsigned pid, kinds, busy;
    uint64_t start, used;
};

struct symbol {
    char name[64];
    unsigned slow_ms;
    bool missing, denied;
};

struct xid {
    char uuid[96];
    unsigned code;
};

struct limit {
    char uuid[96], cgroup[512];
    uint64_t soft, hard;
};

struct machine {
    char driver[32], proc[256], cgroup[256];
    bool can_limit, loaded;
    unsigned generation; /* of the driver: a higher one makes all handles stale */
    unsigned gpus, holds, symbols, xids, limits, crowd;
    struct gpu gpu[MAX_GPUS];
    struct hold hold[MAX_HOLDS];
    struct symbol symbol[MAX_SYMBOLS];
    struct xid xid[MAX_XIDS];
    struct limit limit[MAX_LIMITS];
};

extern struct machine machine;

bool machine_load(void);   /* read the description; false: none, or not readable */
void machine_follow(void); /* apply what was written to the state file since */
void machine_note_limit(const char *uuid, uint64_t soft, uint64_t hard, const char *cgroup);

struct gpu *machine_gpu(const char *uuid);
struct slice *machine_slice(const char *uuid, struct gpu **parent); /* also one that is not there now */
bool slice_there(const struct gpu *gpu, const struct slice *slice);
struct symbol *machine_symbol(const char *name); /* NULL: nothing was said about it */
bool hold_alive(const struct hold *hold);
bool hold_inside(const struct hold *hold, const char *cgroup);

#endif
