/* SPDX-License-Identifier: Apache-2.0
 *
 * `libnvidia-ml.so.1` of a simulated machine: the functions that nvidia-ml-py calls for us, with their struct
 * layouts, error codes and habits (two calls for a list, stale handles after a driver reload, a lost GPU
 * that stays lost until the library is initialised again). Built with OLD_DRIVER it lacks what a driver of
 * branch 470 lacks. Holds no driver knowledge beyond what our adapter can observe.
 */
#include "machine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum result {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    FUNCTION_NOT_FOUND = 13,
    GPU_IS_LOST = 15,
    ARGUMENT_VERSION_MISMATCH = 25,
};

enum { NO_INSTANCE = 0xFFFFFFFF, XID_EVENT = 8, RECOVERY_ACTION = 230, MEMORY_V2 = 0x02000028, MAX_SETS = 64 };

struct handle {
    struct gpu *gpu;
    struct slice *slice; /* NULL: the GPU itself */
};

struct event_set {
    bool used;
    bool registered[MAX_GPUS];
    unsigned next_xid;
};

struct memory_v1 { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
struct utilization { unsigned gpu, memory; };
struct sample { unsigned pid; unsigned long long time; unsigned sm, memory, encoder, decoder; };
struct attributes {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
    unsigned long long memory_mib;
};
struct event { struct handle *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
struct field_value {
    unsigned id, scope;
    long long timestamp, latency;
    unsigned type, result;
    union { unsigned number; unsigned long long wide; } value;
};
struct set_limits { const char *cgroup; unsigned long long soft, hard; };
struct get_limits { const char *cgroup; unsigned long long soft, hard, used; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned users;      /* nvmlInit is counted */
static unsigned generation; /* of the driver at nvmlInit */
static unsigned crowd_seen;
static bool lost[MAX_GPUS]; /* stays so until nvmlInit */
static struct gpu *listed[MAX_GPUS];
static unsigned listed_count;
static struct handle *handles;
static struct event_set sets[MAX_SETS];

static void pause_ms(unsigned milliseconds)
{
    struct timespec time = {milliseconds / 1000, (milliseconds % 1000) * 1000000L};
    nanosleep(&time, NULL);
}

static enum result leave(enum result result)
{
    pthread_mutex_unlock(&lock);
    return result;
}

/* Every function begins here. SUCCESS: the lock is held, end with leave(). */
static enum result enter(const char *name)
{
    struct symbol *symbol;

    pthread_mutex_lock(&lock);
    if (!users)
        return leave(UNINITIALIZED);
    machine_follow();
    symbol = machine_symbol(name);
    if (!symbol)
        symbol = machine_symbol("*");
    if (symbol && symbol->slow_ms) {
        unsigned milliseconds = symbol->slow_ms;
        pthread_mutex_unlock(&lock);
        pause_ms(milliseconds);
        pthread_mutex_lock(&lock);
        if (!users)
            return leave(UNINITIALIZED);
        machine_follow();
    }
    symbol = machine_symbol(name);
    if (!machine.loaded)
        return leave(DRIVER_NOT_LOADED);
    if (machine.generation != generation)
        return leave(UNINITIALIZED);
    for (unsigned i = 0; i < machine.gpus; i++)
        lost[i] |= machine.gpu[i].lost || machine.gpu[i].unplugged;
    if (symbol && symbol->missing)
        return leave(FUNCTION_NOT_FOUND);
    if (symbol && symbol->denied)
        return leave(NO_PERMISSION);
    return SUCCESS;
}

static unsigned number_of(const struct gpu *gpu)
{
    return (unsigned)(gpu - machine.gpu);
}

/* With the lock held: whether a handle is one of this session's, for a device that is there. */
static enum result check(const struct handle *device)
{
    if (!handles || device < handles || device >= handles + MAX_GPUS * (1 + MAX_SLICES) || !device->gpu)
        return INVALID_ARGUMENT;
    if (device->slice && !slice_there(device->gpu, device->slice))
        return INVALID_ARGUMENT;
    return lost[number_of(device->gpu)] ? GPU_IS_LOST : SUCCESS;
}

/* As enter(), for a function of a device. */
static enum result enter_device(const char *name, const struct handle *device)
{
    enum result result = enter(name), device_result;

    if (result == SUCCESS && !check(device) && device->gpu->hang_ms) {
        unsigned milliseconds = device->gpu->hang_ms;
        leave(SUCCESS);
        pause_ms(milliseconds);
        result = enter(name);
    }
    /* A lost GPU is lost for every call, also for those that the driver lacks. */
    if (result == FUNCTION_NOT_FOUND || result == NO_PERMISSION) {
        pthread_mutex_lock(&lock);
        device_result = check(device);
        return leave(device_result ? device_result : result);
    }
    if (result == SUCCESS && (device_result = check(device)))
        return leave(device_result);
    return result;
}

static struct handle *handle_of(struct gpu *gpu, struct slice *slice)
{
    struct handle *handle = &handles[number_of(gpu) * (1 + MAX_SLICES) + (slice ? 1 + (slice - gpu->slice) : 0)];

    handle->gpu = gpu;
    handle->slice = slice;
    return handle;
}

static enum result copy(char *target, unsigned size, const char *text)
{
    if (strlen(text) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(target, text);
    return SUCCESS;
}

/* --- the library itself ------------------------------------------------------------------------------- */

enum result nvmlInitWithFlags(unsigned flags)
{
    enum result result = SUCCESS;

    (void)flags;
    pthread_mutex_lock(&lock);
    if (users && machine.generation == generation && machine.loaded) {
        users++;
        return leave(SUCCESS);
    }
    if (!machine_load() || !machine.loaded)
        result = DRIVER_NOT_LOADED;
    else {
        users++;
        generation = machine.generation;
        crowd_seen = 0;
        memset(sets, 0, sizeof sets);
        /* Never freed: a stale handle must stay an address that is no handle, in tests at least. */
        handles = calloc(MAX_GPUS * (1 + MAX_SLICES), sizeof *handles);
        listed_count = 0;
        for (unsigned i = 0; i < MAX_GPUS; i++) {
            lost[i] = machine.gpu[i].lost;
            if (i < machine.gpus && !machine.gpu[i].unplugged)
                listed[listed_count++] = &machine.gpu[i];
        }
    }
    return leave(result);
}

enum result nvmlShutdown(void)
{
    pthread_mutex_lock(&lock);
    if (!users)
        return leave(UNINITIALIZED);
    users--;
    return leave(SUCCESS);
}

const char *nvmlErrorString(enum result result)
{
    (void)result;
    return "simulated error";
}

enum result nvmlSystemGetDriverVersion(char *text, unsigned size)
{
    enum result result = enter(__func__);
    return result ? result : leave(copy(text, size, machine.driver));
}

enum result nvmlSystemGetNVMLVersion(char *text, unsigned size)
{
    char version[64];
    enum result result = enter(__func__);

    if (result)
        return result;
    snprintf(version, sizeof version, "13.%s", machine.driver);
    return leave(copy(text, size, version));
}

/* --- devices ------------------------------------------------------------------------------------------ */

enum result nvmlDeviceGetCount_v2(unsigned *count)
{
    enum result result = enter(__func__);

    if (result)
        return result;
    *count = listed_count;
    return leave(SUCCESS);
}

enum result nvmlDeviceGetHandleByIndex_v2(unsigned index, struct handle **device)
{
    enum result result = enter(__func__);

    if (result)
        return result;
    if (index >= listed_count)
        return leave(INVALID_ARGUMENT);
    *device = handle_of(listed[index], NULL);
    return leave(SUCCESS);
}

enum result nvmlDeviceGetHandleByUUID(const char *uuid, struct handle **device)
{
    enum result result = enter(__func__);
    struct gpu *gpu;
    struct slice *slice = NULL;

    if (result)
        return result;
    if (!(gpu = machine_gpu(uuid)))
        slice = machine_slice(uuid, &gpu);
    if (!gpu || (slice && !slice_there(gpu, slice)))
        return leave(NOT_FOUND);
    *device = handle_of(gpu, slice);
    return leave(SUCCESS);
}

enum result nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, struct handle **device)
{
    enum result result = enter(__func__);

    if (result)
        return result;
    for (unsigned i = 0; i < machine.gpus; i++)
        if (!strcasecmp(machine.gpu[i].pci, bus_id)) {
            *device = handle_of(&machine.gpu[i], NULL);
            return leave(SUCCESS);
        }
    return leave(NOT_FOUND);
}

enum result nvmlDeviceGetName(struct handle *device, char *text, unsigned size)
{
    char name[160];
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if (device->slice)
        snprintf(name, sizeof name, "%s MIG %s", device->gpu->model, device->slice->profile);
    else
        snprintf(name, sizeof name, "%s", device->gpu->model);
    return leave(copy(text, size, name));
}

enum result nvmlDeviceGetUUID(struct handle *device, char *text, unsigned size)
{
    enum result result = enter_device(__func__, device);
    return result ? result : leave(copy(text, size, device->slice ? device->slice->uuid : device->gpu->uuid));
}

enum result nvmlDeviceGetIndex(struct handle *device, unsigned *index)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    *index = device->slice ? device->slice->index : device->gpu->index;
    return leave(SUCCESS);
}

enum result nvmlDeviceGetMinorNumber(struct handle *device, unsigned *minor)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    *minor = device->gpu->minor;
    return leave(device->slice ? NOT_SUPPORTED : SUCCESS);
}

enum result nvmlDeviceGetPciInfo_v3(struct handle *device, struct pci *pci)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "%s", device->gpu->pci);
    snprintf(pci->legacy, sizeof pci->legacy, "%.12s", device->gpu->pci + 4);
    sscanf(device->gpu->pci, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
    return leave(SUCCESS);
}

static uint64_t held(const struct handle *device)
{
    const struct gpu *gpu = device->gpu;
    uint64_t sum = 0;

    for (unsigned i = 0; i < machine.holds; i++) {
        const struct hold *hold = &machine.hold[i];
        bool here = !strcmp(hold->uuid, device->slice ? device->slice->uuid : gpu->uuid);
        for (unsigned j = 0; !device->slice && j < gpu->slices; j++)
            here |= slice_there(gpu, &gpu->slice[j]) && !strcmp(hold->uuid, gpu->slice[j].uuid);
        if (here && hold->used != NOT_AVAILABLE && hold_alive(hold))
            sum += hold->used;
    }
    return sum;
}

static struct memory_v2 memory_of(const struct handle *device)
{
    struct memory_v2 memory = {MEMORY_V2, device->gpu->total, device->gpu->reserved, 0, held(device)};

    if (device->slice) {
        memory.total = device->slice->total;
        memory.reserved = device->slice->reserved;
    }
    if (memory.used > memory.total - memory.reserved)
        memory.used = memory.total - memory.reserved;
    memory.free = memory.total - memory.reserved - memory.used;
    return memory;
}

enum result nvmlDeviceGetMemoryInfo(struct handle *device, struct memory_v1 *memory)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    struct memory_v2 now = memory_of(device);
    *memory = (struct memory_v1){now.total, now.free, now.used + now.reserved};
    return leave(SUCCESS);
}

enum result nvmlDeviceGetUtilizationRates(struct handle *device, struct utilization *rates)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if (device->slice || device->gpu->mig == MIG_ENABLED)
        return leave(NOT_SUPPORTED);
    *rates = (struct utilization){device->gpu->busy, device->gpu->memory_busy};
    return leave(SUCCESS);
}

/* --- what the driver thinks of the device --------------------------------------------------------------- */

enum result nvmlDeviceGetRemappedRows(struct handle *device, unsigned *corrected, unsigned *uncorrected,
                                      unsigned *pending, unsigned *failed)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if (device->gpu->mig == MIG_UNSUPPORTED)
        return leave(NOT_SUPPORTED); /* as old as that */
    *corrected = *uncorrected = *pending = 0;
    *failed = device->gpu->repair;
    return leave(SUCCESS);
}

/* --- MIG ---------------------------------------------------------------------------------------------- */

enum result nvmlDeviceGetMigMode(struct handle *device, unsigned *current, unsigned *pending)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if (device->slice || device->gpu->mig == MIG_UNSUPPORTED)
        return leave(NOT_SUPPORTED);
    *current = *pending = device->gpu->mig == MIG_ENABLED;
    return leave(SUCCESS);
}

enum result nvmlDeviceGetMaxMigDeviceCount(struct handle *device, unsigned *count)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    *count = device->gpu->mig == MIG_UNSUPPORTED ? 0 : MAX_MIG;
    return leave(SUCCESS);
}

enum result nvmlDeviceGetMigDeviceHandleByIndex(struct handle *device, unsigned index, struct handle **slice)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    for (unsigned i = 0; i < device->gpu->slices; i++)
        if (device->gpu->slice[i].index == index && slice_there(device->gpu, &device->gpu->slice[i])) {
            *slice = handle_of(device->gpu, &device->gpu->slice[i]);
            return leave(SUCCESS);
        }
    return leave(NOT_FOUND);
}

enum result nvmlDeviceIsMigDeviceHandle(struct handle *device, unsigned *is_slice)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    *is_slice = device->slice != NULL;
    return leave(SUCCESS);
}

enum result nvmlDeviceGetDeviceHandleFromMigDeviceHandle(struct handle *slice, struct handle **device)
{
    enum result result = enter_device(__func__, slice);

    if (result)
        return result;
    if (!slice->slice)
        return leave(INVALID_ARGUMENT);
    *device = handle_of(slice->gpu, NULL);
    return leave(SUCCESS);
}

enum result nvmlDeviceGetGpuInstanceId(struct handle *device, unsigned *id)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if (!device->slice)
        return leave(NOT_SUPPORTED);
    *id = device->slice->gpu_instance;
    return leave(SUCCESS);
}

enum result nvmlDeviceGetComputeInstanceId(struct handle *device, unsigned *id)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if (!device->slice)
        return leave(NOT_SUPPORTED);
    *id = device->slice->compute_instance;
    return leave(SUCCESS);
}

enum result nvmlDeviceGetAttributes_v2(struct handle *device, struct attributes *attributes)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if (!device->slice)
        return leave(NOT_SUPPORTED);
    memset(attributes, 0, sizeof *attributes);
    attributes->multiprocessors = 14 * device->slice->compute_slices;
    attributes->gpu_slices = device->slice->gpu_slices;
    attributes->compute_slices = device->slice->compute_slices;
    attributes->memory_mib = device->slice->total >> 20;
    return leave(SUCCESS);
}

/* --- processes ---------------------------------------------------------------------------------------- */

static bool entry(const struct hold *hold, const struct handle *device, struct process *process)
{
    struct gpu *parent = NULL;
    struct slice *slice = machine_slice(hold->uuid, &parent);
    bool direct = !strcmp(hold->uuid, device->slice ? device->slice->uuid : device->gpu->uuid);
    bool of_slice = !device->slice && slice && parent == device->gpu && slice_there(parent, slice);

    if (!(direct || of_slice) || !hold_alive(hold))
        return false;
    *process = (struct process){hold->pid, hold->used, slice ? slice->gpu_instance : NO_INSTANCE,
                                slice ? slice->compute_instance : NO_INSTANCE};
    return true;
}

/* Answers only when the caller's list is long enough; else the length, and INSUFFICIENT_SIZE. */
static enum result processes(const char *name, enum kind kind, const struct handle *device, unsigned *count,
                             struct process *list)
{
    enum result result = enter_device(name, device);
    unsigned room = list ? *count : 0, found = 0;
    struct process process;

    if (result)
        return result;
    for (unsigned i = 0; i < machine.holds; i++)
        if ((machine.hold[i].kinds & kind) && entry(&machine.hold[i], device, &process)) {
            if (found < room)
                list[found] = process;
            found++;
        }
    if (list && found && machine.crowd > crowd_seen) {
        crowd_seen++;
        found = room + 1;
    }
    *count = found;
    return leave(found > room ? INSUFFICIENT_SIZE : SUCCESS);
}

/* A sample now of each process that does something; as the driver, "not found" when there is none. */
enum result nvmlDeviceGetProcessUtilization(struct handle *device, struct sample *list, unsigned *count,
                                            unsigned long long last_seen)
{
    enum result result = enter_device(__func__, device);
    unsigned room = list ? *count : 0, found = 0;
    struct process process;
    struct timespec now;

    if (result)
        return result;
    if (device->slice || device->gpu->mig == MIG_ENABLED)
        return leave(NOT_SUPPORTED);
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned long long time = now.tv_sec * 1000000ULL + now.tv_nsec / 1000;
    for (unsigned i = 0; i < machine.holds; i++)
        if (machine.hold[i].busy && time > last_seen && entry(&machine.hold[i], device, &process)) {
            if (found < room)
                list[found] = (struct sample){process.pid, time, machine.hold[i].busy, 0, 0, 0};
            found++;
        }
    *count = found;
    if (!found)
        return leave(NOT_FOUND);
    return leave(found > room ? INSUFFICIENT_SIZE : SUCCESS);
}

#define PROCESS_LIST(name, kind)                                                            \
    enum result name(struct handle *device, unsigned *count, struct process *list)          \
    {                                                                                       \
        return processes(#name, kind, device, count, list);                                 \
    }

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v2, KIND_COMPUTE)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, KIND_GRAPHICS)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, KIND_MPS)

/* --- events ------------------------------------------------------------------------------------------- */

enum result nvmlEventSetCreate(struct event_set **set)
{
    enum result result = enter(__func__);

    if (result)
        return result;
    for (unsigned i = 0; i < MAX_SETS; i++)
        if (!sets[i].used) {
            memset(&sets[i], 0, sizeof sets[i]);
            sets[i].used = true;
            sets[i].next_xid = machine.xids;
            *set = &sets[i];
            return leave(SUCCESS);
        }
    return leave(NO_PERMISSION); /* a leak of sets shows as an error */
}

enum result nvmlEventSetFree(struct event_set *set)
{
    enum result result = enter(__func__);

    if (result)
        return result;
    set->used = false;
    return leave(SUCCESS);
}

enum result nvmlDeviceGetSupportedEventTypes(struct handle *device, unsigned long long *types)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    *types = XID_EVENT;
    return leave(SUCCESS);
}

enum result nvmlDeviceRegisterEvents(struct handle *device, unsigned long long types, struct event_set *set)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if (device->gpu->deaf || types & ~(unsigned long long)XID_EVENT)
        return leave(NOT_SUPPORTED);
    set->registered[number_of(device->gpu)] = true;
    return leave(SUCCESS);
}

static bool take_event(struct event_set *set, struct event *event)
{
    while (set->next_xid < machine.xids) {
        const struct xid *xid = &machine.xid[set->next_xid++];
        struct gpu *gpu = machine_gpu(xid->uuid);
        struct slice *slice = gpu ? NULL : machine_slice(xid->uuid, &gpu);

        if (!gpu || !set->registered[number_of(gpu)] || (slice && !slice_there(gpu, slice)))
            continue;
        *event = (struct event){handle_of(gpu, NULL), XID_EVENT, xid->code, slice ? slice->gpu_instance : NO_INSTANCE,
                                slice ? slice->compute_instance : NO_INSTANCE};
        return true;
    }
    return false;
}

enum result nvmlEventSetWait_v2(struct event_set *set, struct event *event, unsigned timeout_ms)
{
    for (unsigned waited = 0;; waited += 5) {
        enum result result = enter(__func__);
        if (result)
            return result;
        if (!set->used)
            return leave(INVALID_ARGUMENT);
        if (take_event(set, event))
            return leave(SUCCESS);
        for (unsigned i = 0; i < machine.gpus; i++)
            if (set->registered[i] && lost[i])
                return leave(GPU_IS_LOST);
        if (waited >= timeout_ms)
            return leave(TIMEOUT);
        leave(SUCCESS);
        pause_ms(5);
    }
}

/* --- what an old driver does not have ----------------------------------------------------------------- */

#ifndef OLD_DRIVER

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, KIND_COMPUTE)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, KIND_GRAPHICS)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, KIND_MPS)

enum result nvmlDeviceGetMemoryInfo_v2(struct handle *device, struct memory_v2 *memory)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if (memory->version != MEMORY_V2)
        return leave(ARGUMENT_VERSION_MISMATCH);
    *memory = memory_of(device);
    return leave(SUCCESS);
}

enum result nvmlDeviceGetFieldValues(struct handle *device, int count, struct field_value *values)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    for (int i = 0; i < count; i++) {
        values[i].result = values[i].id == RECOVERY_ACTION ? SUCCESS : NOT_SUPPORTED;
        values[i].value.number = device->gpu->action;
    }
    return leave(SUCCESS);
}

/* The NUMA node of the memory of the GPU itself, which only coherent machines have. */
enum result nvmlDeviceGetNumaNodeId(struct handle *device, unsigned *node)
{
    enum result result = enter_device(__func__, device);

    (void)node;
    return result ? result : leave(NOT_SUPPORTED);
}

/* The host's NUMA nodes that are near, as bits. */
enum result nvmlDeviceGetMemoryAffinity(struct handle *device, unsigned words, unsigned long *nodes, unsigned scope)
{
    enum result result = enter_device(__func__, device);

    (void)scope;
    if (result)
        return result;
    if (device->gpu->numa < 0)
        return leave(NOT_SUPPORTED);
    memset(nodes, 0, words * sizeof *nodes);
    if ((unsigned)device->gpu->numa / 64 >= words)
        return leave(INSUFFICIENT_SIZE);
    nodes[device->gpu->numa / 64] = 1UL << (device->gpu->numa % 64);
    return leave(SUCCESS);
}

static enum result limitable(const struct handle *device, const char *cgroup)
{
    struct stat directory;

    if (!machine.can_limit)
        return FUNCTION_NOT_FOUND;
    if (device->slice || device->gpu->mig == MIG_ENABLED)
        return NOT_SUPPORTED;
    if (!cgroup || cgroup[0] != '/' || stat(cgroup, &directory) || !S_ISDIR(directory.st_mode))
        return INVALID_ARGUMENT;
    return SUCCESS;
}

enum result nvmlDeviceSetMemoryLimits_v1(struct handle *device, struct set_limits *limits)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if ((result = limitable(device, limits->cgroup)))
        return leave(result);
    machine_note_limit(device->gpu->uuid, limits->soft ? limits->soft : NOT_AVAILABLE, limits->hard, limits->cgroup);
    machine_follow();
    return leave(SUCCESS);
}

enum result nvmlDeviceGetMemoryLimits_v1(struct handle *device, struct get_limits *limits)
{
    enum result result = enter_device(__func__, device);

    if (result)
        return result;
    if ((result = limitable(device, limits->cgroup)))
        return leave(result);
    limits->soft = limits->used = 0;
    limits->hard = NOT_AVAILABLE;
    for (unsigned i = 0; i < machine.limits; i++) {
        const struct limit *limit = &machine.limit[i];
        if (!strcmp(limit->uuid, device->gpu->uuid) && !strcmp(limit->cgroup, limits->cgroup)) {
            limits->soft = limit->soft == NOT_AVAILABLE ? 0 : limit->soft;
            limits->hard = limit->hard;
        }
    }
    for (unsigned i = 0; i < machine.holds; i++) {
        const struct hold *hold = &machine.hold[i];
        if (!strcmp(hold->uuid, device->gpu->uuid) && hold->used != NOT_AVAILABLE && hold_alive(hold)
            && hold_inside(hold, limits->cgroup))
            limits->used += hold->used;
    }
    return leave(SUCCESS);
}

#endif
