#pragma once

#include <napi.h>

/* The functions of src/native/types.ts, by file. */
namespace caisson {

Napi::Value spawn(const Napi::CallbackInfo& info);

Napi::Value waitChild(const Napi::CallbackInfo& info);
Napi::Value waitGone(const Napi::CallbackInfo& info);
Napi::Value pidfdOpen(const Napi::CallbackInfo& info);
void pidfdSignal(const Napi::CallbackInfo& info);
void killGroup(const Napi::CallbackInfo& info);
void setSlices(const Napi::CallbackInfo& info);

Napi::Value seqpacketConnect(const Napi::CallbackInfo& info);
Napi::Value seqpacketPair(const Napi::CallbackInfo& info);
Napi::Value readPipe(const Napi::CallbackInfo& info);
Napi::Value writePipe(const Napi::CallbackInfo& info);

Napi::Value openat2(const Napi::CallbackInfo& info);
void denySyscalls(const Napi::CallbackInfo& info);

Napi::Value pipe(const Napi::CallbackInfo& info);
Napi::Value streamPair(const Napi::CallbackInfo& info);
Napi::Value duplicate(const Napi::CallbackInfo& info);
Napi::Value eventfd(const Napi::CallbackInfo& info);
void resizeTerminal(const Napi::CallbackInfo& info);
Napi::Value sealedMemfd(const Napi::CallbackInfo& info);
void close(const Napi::CallbackInfo& info);
Napi::Value umount2(const Napi::CallbackInfo& info);
Napi::Value extendedAttribute(const Napi::CallbackInfo& info);
Napi::Value fsTypeOf(const Napi::CallbackInfo& info);
Napi::Value tryLock(const Napi::CallbackInfo& info);
void unlock(const Napi::CallbackInfo& info);
void fallocate(const Napi::CallbackInfo& info);
Napi::Value syncfs(const Napi::CallbackInfo& info);
void sendDatagram(const Napi::CallbackInfo& info);
Napi::Value bindDatagram(const Napi::CallbackInfo& info);
void sendDescriptor(const Napi::CallbackInfo& info);

Napi::Value readFiles(const Napi::CallbackInfo& info);
Napi::Value countDescriptors(const Napi::CallbackInfo& info);

Napi::Value seccompCompile(const Napi::CallbackInfo& info);
Napi::Value seccompSyscallNumber(const Napi::CallbackInfo& info);

void trimMemory(const Napi::CallbackInfo& info);

void attachDeviceProgram(const Napi::CallbackInfo& info);

} // namespace caisson
