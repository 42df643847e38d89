/* A driver that knows process checkpoints and nothing else, for a machine without one: NVIDIA's own library is tried
 * against it. Each call is written to the file that FAKE_DRIVER_LOG names. Process 666 answers that it is not ready. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct { unsigned char bytes[16]; } Uuid;
typedef struct { Uuid old, new; } Pair;
typedef struct { unsigned int timeout_ms; } Lock;
typedef struct { Pair *pairs; unsigned int count; } Restore;

static int state = 0;

static int say(const char *what, int pid, const char *more, int from, int to) {
  FILE *log = fopen(getenv("FAKE_DRIVER_LOG"), "a");
  fprintf(log, "%s %d%s\n", what, pid, more);
  fclose(log);
  if (pid == 666) return 600;
  if (state != from) return 401;
  state = to;
  return 0;
}

int cuInit(unsigned int flags) { return flags; }
int cuDriverGetVersion(int *version) {
  const char *told = getenv("FAKE_DRIVER_VERSION");
  *version = told ? atoi(told) : 13000;
  return 0;
}
int cuGetErrorName(int code, const char **text) {
  *text = code == 600 ? "CUDA_ERROR_NOT_READY" : "CUDA_ERROR_ILLEGAL_STATE";
  return 0;
}
int cuGetErrorString(int code, const char **text) {
  *text = code == 600 ? "device not ready" : "the operation cannot be performed in the present state";
  return 0;
}
int cuCheckpointProcessGetState(int pid, int *found) {
  *found = state;
  return pid == 667 ? 1 : 0;
}
int cuCheckpointProcessLock(int pid, const Lock *args) {
  char more[40];
  snprintf(more, sizeof more, " timeout %u", args->timeout_ms);
  return say("lock", pid, more, 0, 1);
}
int cuCheckpointProcessCheckpoint(int pid, void *args) { return say("checkpoint", pid, args ? " args" : "", 1, 2); }
int cuCheckpointProcessRestore(int pid, const Restore *args) {
  char more[400];
  int at = snprintf(more, sizeof more, " pairs %u", args ? args->count : 0);
  for (unsigned int i = 0; args && i < args->count; i++)
    at += snprintf(more + at, sizeof more - at, " %02x%02x>%02x%02x", args->pairs[i].old.bytes[0],
                   args->pairs[i].old.bytes[15], args->pairs[i].new.bytes[0], args->pairs[i].new.bytes[15]);
  return say("restore", pid, more, 2, 1);
}
int cuCheckpointProcessUnlock(int pid, void *args) { return say("unlock", pid, args ? " args" : "", 1, 0); }
int cuCheckpointProcessGetRestoreThreadId(int pid, int *thread) { return *thread = pid, 0; }

int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long flags, int *status) {
  (void)version, (void)flags;
  *found = dlsym(RTLD_DEFAULT, name);
  if (!*found) {
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *found = self ? dlsym(self, name) : NULL;
  }
  if (status) *status = *found ? 0 : 1;
  return *found ? 0 : 500;
}
