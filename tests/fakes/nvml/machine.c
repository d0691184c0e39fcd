/* SPDX-License-Identifier: Apache-2.0 */
#include "machine.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct machine machine;

static ino_t followed_inode;
static off_t followed_offset;

bool machine_load(void)
{
    const char *path = getenv("NODESHARE_NVML_MACHINE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[1024];
    int numa, mig;

    if (!file)
        return false;
    memset(&machine, 0, sizeof machine);
    machine.loaded = true;
    followed_inode = 0;
    followed_offset = 0;
    while (fgets(line, sizeof line, file)) {
        struct gpu *gpu = &machine.gpu[machine.gpus];
        struct slice *slice;
        unsigned limits, parent;

        if (sscanf(line, "driver %31s", machine.driver) == 1 || sscanf(line, "proc %255[^\n]", machine.proc) == 1
            || sscanf(line, "cgroup %255[^\n]", machine.cgroup) == 1)
            continue;
        if (sscanf(line, "limits %u", &limits) == 1) {
            machine.can_limit = limits != 0;
        } else if (machine.gpus < MAX_GPUS
                   && sscanf(line, "gpu %95s %u %u %31s %d %" SCNu64 " %" SCNu64 " %d %95[^\n]", gpu->uuid, &gpu->index,
                             &gpu->minor, gpu->pci, &numa, &gpu->total, &gpu->reserved, &mig, gpu->model)
                       == 9) {
            gpu->numa = numa;
            gpu->mig = gpu->described_mig = (enum mig)mig;
            machine.gpus++;
        } else if (sscanf(line, "slice %u", &parent) == 1 && parent < machine.gpus
                   && machine.gpu[parent].slices < MAX_SLICES) {
            gpu = &machine.gpu[parent];
            slice = &gpu->slice[gpu->slices];
            if (sscanf(line, "slice %*u %95s %u %u %u %u %u %" SCNu64 " %" SCNu64 " %31s", slice->uuid, &slice->index,
                       &slice->gpu_instance, &slice->compute_instance, &slice->gpu_slices, &slice->compute_slices,
                       &slice->total, &slice->reserved, slice->profile)
                == 9)
                gpu->slices++;
        }
    }
    fclose(file);
    machine_follow();
    return machine.gpus > 0;
}

struct gpu *machine_gpu(const char *uuid)
{
    for (unsigned i = 0; i < machine.gpus; i++)
        if (!strcmp(machine.gpu[i].uuid, uuid))
            return &machine.gpu[i];
    return NULL;
}

struct slice *machine_slice(const char *uuid, struct gpu **parent)
{
    for (unsigned i = 0; i < machine.gpus; i++)
        for (unsigned j = 0; j < machine.gpu[i].slices; j++)
            if (!strcmp(machine.gpu[i].slice[j].uuid, uuid)) {
                *parent = &machine.gpu[i];
                return &machine.gpu[i].slice[j];
            }
    return NULL;
}

bool slice_there(const struct gpu *gpu, const struct slice *slice)
{
    return !slice->removed && gpu->mig == MIG_ENABLED && slice->index < MAX_MIG;
}

struct symbol *machine_symbol(const char *name)
{
    for (unsigned i = 0; i < machine.symbols; i++)
        if (!strcmp(machine.symbol[i].name, name))
            return &machine.symbol[i];
    return NULL;
}

static struct symbol *symbol_for(const char *name)
{
    struct symbol *symbol = machine_symbol(name);

    if (!symbol && machine.symbols < MAX_SYMBOLS) {
        symbol = &machine.symbol[machine.symbols++];
        memset(symbol, 0, sizeof *symbol);
        snprintf(symbol->name, sizeof symbol->name, "%s", name);
    }
    return symbol;
}

/* A number, or `-` for none. */
static bool number(const char *word, uint64_t *value)
{
    char *end;

    if (!strcmp(word, "-")) {
        *value = NOT_AVAILABLE;
        return true;
    }
    *value = strtoull(word, &end, 10);
    return *word && !*end;
}

static unsigned kinds_of(char *words)
{
    unsigned kinds = 0;
    char *rest;

    for (char *word = strtok_r(words, "+", &rest); word; word = strtok_r(NULL, "+", &rest)) {
        if (!strcmp(word, "compute"))
            kinds |= KIND_COMPUTE;
        else if (!strcmp(word, "graphics"))
            kinds |= KIND_GRAPHICS;
        else if (!strcmp(word, "mps"))
            kinds |= KIND_MPS;
        else
            return 0;
    }
    return kinds;
}

static void release(const char *uuid, unsigned pid)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < machine.holds; i++)
        if (machine.hold[i].pid != pid || (strcmp(uuid, "*") && strcmp(uuid, machine.hold[i].uuid)))
            machine.hold[kept++] = machine.hold[i];
    machine.holds = kept;
}

static void apply_hold(const char *rest)
{
    struct hold hold = {.busy = 0};
    char start[32], used[32], kinds[64];

    if (sscanf(rest, "%95s %u %31s %31s %63s", hold.uuid, &hold.pid, start, used, kinds) != 5
        || !number(start, &hold.start) || !number(used, &hold.used) || !(hold.kinds = kinds_of(kinds)))
        return;
    release(hold.uuid, hold.pid);
    if (machine.holds < MAX_HOLDS)
        machine.hold[machine.holds++] = hold;
}

static void apply_busy(const char *rest)
{
    char uuid[96];
    unsigned pid, percent;

    if (sscanf(rest, "%95s %u %u", uuid, &pid, &percent) == 3)
        for (unsigned i = 0; i < machine.holds; i++)
            if (machine.hold[i].pid == pid && !strcmp(machine.hold[i].uuid, uuid))
                machine.hold[i].busy = percent;
}

static void apply_limit(const char *rest)
{
    struct limit limit, *place = NULL;
    char soft[32], hard[32];

    if (sscanf(rest, "%95s %31s %31s %511[^\n]", limit.uuid, soft, hard, limit.cgroup) != 4
        || !number(soft, &limit.soft) || !number(hard, &limit.hard))
        return;
    for (unsigned i = 0; i < machine.limits; i++)
        if (!strcmp(machine.limit[i].uuid, limit.uuid) && !strcmp(machine.limit[i].cgroup, limit.cgroup))
            place = &machine.limit[i];
    if (!place && machine.limits < MAX_LIMITS)
        place = &machine.limit[machine.limits++];
    if (place)
        *place = limit;
}

static void clear(void)
{
    machine.loaded = true;
    machine.holds = machine.symbols = machine.limits = machine.crowd = 0;
    for (unsigned i = 0; i < machine.gpus; i++) {
        struct gpu *gpu = &machine.gpu[i];
        gpu->lost = gpu->unplugged = gpu->deaf = gpu->repair = false;
        gpu->busy = gpu->memory_busy = gpu->hang_ms = gpu->action = 0;
        gpu->mig = gpu->described_mig;
        while (gpu->slices && gpu->slice[gpu->slices - 1].made)
            gpu->slices--;
        for (unsigned j = 0; j < gpu->slices; j++)
            gpu->slice[j].removed = false;
    }
}

/* Slices that were made while the machine runs have the lowest numbers that are free. */
static void number_made(struct gpu *gpu)
{
    bool taken[MAX_MIG] = {false};

    for (unsigned i = 0; i < gpu->slices; i++)
        if (!gpu->slice[i].made && !gpu->slice[i].removed)
            taken[gpu->slice[i].index] = true;
    for (unsigned i = 0; i < gpu->slices; i++) {
        struct slice *slice = &gpu->slice[i];
        if (!slice->made || slice->removed)
            continue;
        for (slice->index = 0; slice->index < MAX_MIG && taken[slice->index];)
            slice->index++;
        if (slice->index < MAX_MIG)
            taken[slice->index] = true;
    }
}

static void apply_make(const char *rest)
{
    struct slice slice = {.made = true};
    char parent[96];
    struct gpu *gpu, *other;
    unsigned whole, part, memory;

    if (sscanf(rest, "%95s %95s %u %u %" SCNu64 " %31s", parent, slice.uuid, &slice.gpu_instance,
               &slice.compute_instance, &slice.total, slice.profile)
            != 6
        || !(gpu = machine_gpu(parent)) || gpu->slices == MAX_SLICES || machine_slice(slice.uuid, &other))
        return;
    if (!strstr(slice.profile, "gb"))
        return;
    if (sscanf(slice.profile, "%uc.%ug.%u", &part, &whole, &memory) == 3) {
        slice.compute_slices = part;
        slice.gpu_slices = whole;
    } else if (sscanf(slice.profile, "%ug.%u", &whole, &memory) == 2) {
        slice.compute_slices = slice.gpu_slices = whole;
    } else {
        return;
    }
    gpu->slice[gpu->slices++] = slice;
}

static void apply_demand(struct gpu *gpu, const char *word)
{
    static const struct { const char *word; unsigned action; bool repair; } known[] = {
        {"nothing", 0, false}, {"reset", 1, false}, {"reboot", 2, false}, {"drain", 4, false}, {"repair", 0, true},
    };

    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(word, known[i].word)) {
            gpu->action = known[i].action;
            gpu->repair = known[i].repair;
        }
}

static void apply(const char *line)
{
    char verb[32] = "", word[512] = "", then[32] = "";
    unsigned first = 0, second = 0;
    const char *rest = strchr(line, ' ');
    struct gpu *gpu, *parent;
    struct slice *slice;
    struct symbol *symbol;

    sscanf(line, "%31s %511s %u %u", verb, word, &first, &second);
    sscanf(line, "%*s %*s %31s", then);
    rest = rest ? rest + 1 : "";
    gpu = machine_gpu(word);
    slice = machine_slice(word, &parent);
    if (!strcmp(verb, "hold")) {
        apply_hold(rest);
    } else if (!strcmp(verb, "busy")) {
        apply_busy(rest);
    } else if (!strcmp(verb, "release")) {
        release(word, first);
    } else if (!strcmp(verb, "limit")) {
        apply_limit(rest);
    } else if (!strcmp(verb, "utilisation") && gpu) {
        gpu->busy = first;
        gpu->memory_busy = second;
    } else if ((!strcmp(verb, "lose") || !strcmp(verb, "recover")) && gpu) {
        gpu->lost = verb[0] == 'l';
    } else if ((!strcmp(verb, "unplug") || !strcmp(verb, "plug")) && gpu) {
        gpu->unplugged = verb[0] == 'u';
    } else if ((!strcmp(verb, "deaf") || !strcmp(verb, "hearing")) && gpu) {
        gpu->deaf = verb[0] == 'd';
    } else if (!strcmp(verb, "demand") && gpu) {
        apply_demand(gpu, then);
    } else if (!strcmp(verb, "hang") && gpu && sscanf(then, "%u", &first) == 1) {
        gpu->hang_ms = first;
    } else if (!strcmp(verb, "mig") && gpu && gpu->described_mig != MIG_UNSUPPORTED) {
        if (!strcmp(then, "on") || !strcmp(then, "off"))
            gpu->mig = then[1] == 'n' ? MIG_ENABLED : MIG_DISABLED;
    } else if (!strcmp(verb, "make")) {
        apply_make(rest);
    } else if ((!strcmp(verb, "remove") || !strcmp(verb, "restore")) && slice) {
        slice->removed = !strcmp(verb, "remove");
    } else if (!strcmp(verb, "xid") && machine.xids < MAX_XIDS) {
        struct xid *xid = &machine.xid[machine.xids++];
        snprintf(xid->uuid, sizeof xid->uuid, "%.95s", word);
        xid->code = first;
    } else if (!strcmp(verb, "slow") && (symbol = symbol_for(word))) {
        symbol->slow_ms = first;
    } else if ((!strcmp(verb, "missing") || !strcmp(verb, "present")) && (symbol = symbol_for(word))) {
        symbol->missing = verb[0] == 'm';
    } else if ((!strcmp(verb, "deny") || !strcmp(verb, "permit")) && (symbol = symbol_for(word))) {
        symbol->denied = verb[0] == 'd';
    } else if (!strcmp(verb, "unload")) {
        machine.loaded = false;
    } else if (!strcmp(verb, "reload")) {
        machine.loaded = true;
        machine.generation++;
    } else if (!strcmp(verb, "crowd")) {
        machine.crowd += strtoul(word, NULL, 10);
    } else if (!strcmp(verb, "clear")) {
        clear();
    }
}

void machine_follow(void)
{
    const char *path = getenv("NODESHARE_NVML_STATE");
    struct stat now;
    char line[1024];
    FILE *file;

    if (!path || stat(path, &now))
        return;
    if (now.st_ino != followed_inode || now.st_size < followed_offset) {
        clear();
        followed_inode = now.st_ino;
        followed_offset = 0;
    }
    if (now.st_size == followed_offset || !(file = fopen(path, "r")))
        return;
    fseeko(file, followed_offset, SEEK_SET);
    while (fgets(line, sizeof line, file)) {
        char *newline = strchr(line, '\n');
        if (!newline)
            break; /* its writer is not done with it */
        followed_offset += newline + 1 - line;
        *newline = '\0';
        apply(line);
    }
    fclose(file);
    for (unsigned i = 0; i < machine.gpus; i++)
        number_made(&machine.gpu[i]);
}

static void limit_word(char *word, size_t size, uint64_t value)
{
    if (value == NOT_AVAILABLE)
        snprintf(word, size, "-");
    else
        snprintf(word, size, "%" PRIu64, value);
}

void machine_note_limit(const char *uuid, uint64_t soft, uint64_t hard, const char *cgroup)
{
    const char *path = getenv("NODESHARE_NVML_STATE");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    char line[1024], soft_word[32], hard_word[32];

    if (file < 0)
        return;
    limit_word(soft_word, sizeof soft_word, soft);
    limit_word(hard_word, sizeof hard_word, hard);
    int length = snprintf(line, sizeof line, "limit %s %s %s %s\n", uuid, soft_word, hard_word, cgroup);
    if (write(file, line, (size_t)length) != length)
        abort(); /* a test machine without space: no point in going on */
    close(file);
}

/* A whole file of `/proc/<pid>`; empty when there is no such process. */
static void read_proc(unsigned pid, const char *name, char *text, size_t size)
{
    char path[512];
    size_t length = 0;
    FILE *file;

    snprintf(path, sizeof path, "%s/%u/%s", machine.proc, pid, name);
    if ((file = fopen(path, "r"))) {
        length = fread(text, 1, size - 1, file);
        fclose(file);
    }
    text[length] = '\0';
}

bool hold_alive(const struct hold *hold)
{
    char text[2048];
    char state;
    uint64_t threads, start;

    read_proc(hold->pid, "stat", text, sizeof text);
    /* After the command name (which may hold anything): field 3 is the state (of the first thread,
       beside which others may run), field 20 the number of threads, field 22 the start time. */
    const char *after = strrchr(text, ')');
    if (!after
        || sscanf(after + 1,
                  " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %" SCNu64 " %*s %" SCNu64,
                  &state, &threads, &start)
               != 3)
        return false;
    return ((state != 'Z' && state != 'X') || threads > 1) && (hold->start == NOT_AVAILABLE || hold->start == start);
}

static bool within(const char *root, const char *below, const char *path, const char *cgroup)
{
    char directory[1024];
    size_t length = strlen(cgroup);

    snprintf(directory, sizeof directory, "%s%s%s", root, below, path);
    return !strncmp(directory, cgroup, length) && (directory[length] == '\0' || directory[length] == '/');
}

bool hold_inside(const struct hold *hold, const char *cgroup)
{
    char text[8192], *rest;

    read_proc(hold->pid, "cgroup", text, sizeof text);
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        if (!strncmp(line, "0::", 3))
            return within(machine.cgroup, "", line + 3, cgroup) || within(machine.cgroup, "/unified", line + 3, cgroup);
    return false;
}
