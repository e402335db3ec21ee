#include "addon.h"

namespace {

template <auto function>
void put(Napi::Object exports, const char* name)
{
	exports.Set(name, Napi::Function::New<function>(exports.Env(), name));
}

Napi::Object init(Napi::Env env, Napi::Object exports)
{
	put<caisson::spawn>(exports, "spawn");
	put<caisson::waitChild>(exports, "waitChild");
	put<caisson::waitGone>(exports, "waitGone");
	put<caisson::pidfdOpen>(exports, "pidfdOpen");
	put<caisson::pidfdSignal>(exports, "pidfdSignal");
	put<caisson::killGroup>(exports, "killGroup");
	put<caisson::setSlices>(exports, "setSlices");
	put<caisson::seqpacketConnect>(exports, "seqpacketConnect");
	put<caisson::seqpacketPair>(exports, "seqpacketPair");
	put<caisson::readPipe>(exports, "readPipe");
	put<caisson::writePipe>(exports, "writePipe");
	put<caisson::openat2>(exports, "openat2");
	put<caisson::denySyscalls>(exports, "denySyscalls");
	put<caisson::pipe>(exports, "pipe");
	put<caisson::streamPair>(exports, "streamPair");
	put<caisson::duplicate>(exports, "duplicate");
	put<caisson::eventfd>(exports, "eventfd");
	put<caisson::resizeTerminal>(exports, "resizeTerminal");
	put<caisson::sealedMemfd>(exports, "sealedMemfd");
	put<caisson::close>(exports, "close");
	put<caisson::umount2>(exports, "umount2");
	put<caisson::extendedAttribute>(exports, "extendedAttribute");
	put<caisson::fsTypeOf>(exports, "fsTypeOf");
	put<caisson::tryLock>(exports, "tryLock");
	put<caisson::unlock>(exports, "unlock");
	put<caisson::fallocate>(exports, "fallocate");
	put<caisson::syncfs>(exports, "syncfs");
	put<caisson::sendDatagram>(exports, "sendDatagram");
	put<caisson::bindDatagram>(exports, "bindDatagram");
	put<caisson::sendDescriptor>(exports, "sendDescriptor");
	put<caisson::readFiles>(exports, "readFiles");
	put<caisson::countDescriptors>(exports, "countDescriptors");
	put<caisson::trimMemory>(exports, "trimMemory");
	put<caisson::seccompCompile>(exports, "seccompCompile");
	put<caisson::seccompSyscallNumber>(exports, "seccompSyscallNumber");
	put<caisson::attachDeviceProgram>(exports, "attachDeviceProgram");
	return exports;
}

} // namespace

NODE_API_MODULE(caisson, init)
