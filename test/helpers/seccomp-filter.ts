/** Runs a seccomp program as the kernel would: classic BPF over struct seccomp_data. */

export interface SystemCall {
  readonly nr: number;
  /** AUDIT_ARCH_*. */
  readonly arch: number;
  readonly args?: readonly bigint[];
}

/** The value that the program returns: SECCOMP_RET_* with its data. `trace` collects the instructions that were run. */
export function runSeccompFilter(program: Buffer, call: SystemCall, trace: number[] = []): number {
  const data = Buffer.alloc(64);
  data.writeUInt32LE(call.nr >>> 0, 0);
  data.writeUInt32LE(call.arch >>> 0, 4);
  call.args?.forEach((value, i) => {
    data.writeBigUInt64LE(BigInt.asUintN(64, value), 16 + 8 * i);
  });
  let a = 0;
  for (let pc = 0; ; pc++) {
    if (pc * 8 >= program.length) throw new Error("the program runs over its end");
    trace.push(pc);
    const code = program.readUInt16LE(pc * 8);
    const yes = program.readUInt8(pc * 8 + 2);
    const no = program.readUInt8(pc * 8 + 3);
    const k = program.readUInt32LE(pc * 8 + 4);
    const jump = (taken: boolean): void => {
      pc += taken ? yes : no;
    };
    switch (code) {
      case 0x20: // ld abs
        a = data.readUInt32LE(k);
        break;
      case 0x54: // and
        a = (a & k) >>> 0;
        break;
      case 0x05: // ja
        pc += k;
        break;
      case 0x15:
        jump(a === k);
        break;
      case 0x25:
        jump(a > k);
        break;
      case 0x35:
        jump(a >= k);
        break;
      case 0x45:
        jump((a & k) !== 0);
        break;
      case 0x06: // ret
        return k;
      default:
        throw new Error(`the program has the unknown instruction 0x${code.toString(16)}`);
    }
  }
}
