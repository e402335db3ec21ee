/* Sizes, times and numbers that several files of the shim agree about. */
#ifndef CAISSON_SHIM_LIMITS_H
#define CAISSON_SHIM_LIMITS_H

#include <stdint.h>

#include "../common/gen/shim_messages.h"

#ifdef PROTOCOL_VERSION_OVERRIDE
#undef PROTOCOL_VERSION
#define PROTOCOL_VERSION PROTOCOL_VERSION_OVERRIDE
#endif
#ifdef MIN_PROTOCOL_VERSION_OVERRIDE
#undef MIN_PROTOCOL_VERSION
#define MIN_PROTOCOL_VERSION MIN_PROTOCOL_VERSION_OVERRIDE
#endif

/* build.c */
extern const char shim_build[];

/* Run at start or seldom: see layout.ld. */
#define COLD __attribute__((cold))

#define POD_DIR_FD 3
#define READY_FD 4
#define POD_ID_LENGTH 64
#define ID_LIMIT 128       /* container ids: they are file names */
#define EXEC_ID_LIMIT 72
#define CLIENT_LIMIT 16
#define REQUEST_FDS 64
#define EXPORT_LIMIT 32
#define SINK_LIMIT 16      /* attached clients of one stream */
#define LOG_LINE_DEFAULT 16384u
#define LOG_LINE_LIMIT 65536u
#define FLUSH_MS 2000      /* how long a log may come in after init's end */
#define LOG_OPEN_MS 8000   /* how long start and reopen-log wait for the log's file system */
#define STUCK_MS 1000      /* how long an exit report waits for a file system that does not answer */
#define STATUS_UNKNOWN 0xffffffffu
#define STATUS_NEVER_STARTED (128u << 8)
#define NEVER INT64_MAX

enum phase { PHASE_CREATING = 1, PHASE_PARKED = 2, PHASE_STARTING = 3, PHASE_RUNNING = 4, PHASE_EXITED = 5 };
enum { CREATE_STDIN = 1, CREATE_TERMINAL = 2, CREATE_KILL_REST = 4, CREATE_STDIN_ONCE = 8,
       CREATE_RESTORED = 16 /* our own: restored frozen, thawed by start */ };

#endif
