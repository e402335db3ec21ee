/* What requests do (request.c's table), and what of it goes on afterwards. control.c, reexec.c and the files of the verbs */
#ifndef CAISSON_SHIM_HANDLERS_H
#define CAISSON_SHIM_HANDLERS_H

#include <stdint.h>

#include "conn.h"

void handle_run(struct request *request);
void handle_create(struct request *request);
void handle_continue(struct request *request);
void handle_start(struct request *request);
void handle_exec(struct request *request);
void handle_exec_kill(struct request *request);
void handle_exec_adopt(struct request *request);
void handle_signal(struct request *request);
void handle_reopen_log(struct request *request);
void handle_list(struct request *request);
void handle_ack_exit(struct request *request);
void handle_forget(struct request *request);
void handle_shutdown(struct request *request);
void handle_reexec(struct request *request);
void handle_spawn_host(struct request *request);
void handle_resize(struct request *request);
void handle_attach(struct request *request);
void handle_restore_prepare(struct request *request);
void handle_restore_adopt(struct request *request);

void shutdown_continue(int64_t now);

/* Waits until nothing is in flight, then becomes the new image. */
void reexec_continue(int64_t now);
/* In the new image: takes over what the old one left. 0 or -errno. */
int reexec_restore(int state_fd);
/* The terminal of an exec, -1 if it has none. */
int exec_console(const char *id, const char *exec_id);

#endif
