{
  "targets": [
    {
      "target_name": "caisson",
      "sources": [
        "native/addon/addon.cc",
        "native/addon/cgroup-device.cc",
        "native/addon/datagram.cc",
        "native/addon/fallback.cc",
        "native/addon/files.cc",
        "native/addon/memory.cc",
        "native/addon/native-error.cc",
        "native/addon/pipe-reader.cc",
        "native/addon/pipe-writer.cc",
        "native/addon/poll.cc",
        "native/addon/process.cc",
        "native/addon/read-files.cc",
        "native/addon/resolve.cc",
        "native/addon/seccomp-enosys.cc",
        "native/addon/seccomp.cc",
        "native/addon/send-descriptor.cc",
        "native/addon/seqpacket.cc",
        "native/addon/spawn.cc"
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=9", "NODE_ADDON_API_CPP_EXCEPTIONS", "_GNU_SOURCE"],
      "cflags_cc!": ["-fno-exceptions", "-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++20", "-fexceptions", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-cast-function-type"],
      "libraries": ["-lseccomp"]
    }
  ]
}
