#!/usr/bin/env python3
"""Makes `import torch` work in this environment with the torch wheel of .libtorch, on the CPU alone.

usage: .venv/bin/python scripts/torch_for_peers.py .libtorch
needs: cc, nm; the plain Python packages of scripts/requirements-peers.txt

The wheel of PyPI is a CUDA build, and `import torch` wants gigabytes of NVIDIA libraries that CPU code never calls.
This writes empty shared objects that carry their names and the symbols asked of them into torch-stubs/ of this
environment, and a hook that loads them when torch is imported. For the peers of `flywheel bench` only: nothing of it lies
where the trainer looks. So the peer and the trainer run the same libtorch.
"""
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

# Shared object -> what the names of its functions begin with.
STUBS = {
    "libcublas.so.13": "cublas",
    "libcublasLt.so.13": "cublasLt",
    "libcudnn.so.9": "cudnn",
    "libcufft.so.12": "cufft",
    "libcufile.so.0": "cuFile",
    "libcurand.so.10": "curand",
    "libcusolver.so.12": "cusolver",
    "libcusparse.so.12": "cusparse",
    "libcusparseLt.so.0": "cusparseLt",
    "libnccl.so.2": "nccl",
    "libnvJitLink.so.13": "nvJitLink",
    "libnvrtc.so.13": "nvrtc",
    "libnvshmem_host.so.3": "nvshmem",
}
ASKING = ["libtorch_cuda.so", "libtorch_python.so", "libtorch_nvshmem.so", "libtorch_cpu.so", "libc10_cuda.so", "libtorch_cuda_linalg.so"]

HOOK = '''"""Lets `import torch` find the wheel of .libtorch; written by scripts/torch_for_peers.py."""
import ctypes
import sys
from pathlib import Path

STUBS, SITE = Path({stubs!r}), {site!r}


class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(cls)
            if SITE not in sys.path:
                sys.path.append(SITE)
            for stub in sorted(STUBS.glob("*.so*")):
                ctypes.CDLL(str(stub), ctypes.RTLD_GLOBAL)
        return None


sys.meta_path.insert(0, Finder)
'''


def symbols(library):
    """Undefined dynamic symbols with the version each is asked at ('' for none)."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        name, _, version = line.split()[-1].partition("@")
        yield name, version.lstrip("@")


def belongs(name, prefix):
    longer = [other for other in STUBS.values() if other != prefix and other.startswith(prefix)]
    return name.startswith(prefix) and not any(name.startswith(other) for other in longer)


def main():
    [site] = Path(sys.argv[1]).resolve().glob("lib/python3.*/site-packages")
    own = Path(sysconfig.get_path("purelib"))
    if site.parent.name != own.parent.name:
        sys.exit(f"{site} is of {site.parent.name}, this environment of {own.parent.name}; make both with the same PYTHON")
    stubs = Path(sys.prefix) / "torch-stubs"
    stubs.mkdir(exist_ok=True)
    asked = {}
    for library in ASKING:
        asked.update(symbols(site / "torch" / "lib" / library) if (site / "torch" / "lib" / library).exists() else ())
    for shared, prefix in STUBS.items():
        names = sorted(name for name in asked if belongs(name, prefix))
        versions = sorted({asked[name] for name in names if asked[name]})
        source = stubs / "stub.c"
        source.write_text("void flywheel_stub(void) {}\n" + "".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
        command = ["cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{shared}", "-o", str(stubs / shared), str(source)]
        if versions:
            script = stubs / "stub.map"
            script.write_text(versions[0] + " { global: *; };\n")
            command.insert(1, f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)
    for leftover in ("stub.c", "stub.map"):
        (stubs / leftover).unlink(missing_ok=True)
    (own / "flywheel_torch.py").write_text(HOOK.format(stubs=str(stubs), site=str(site)))
    (own / "flywheel_torch.pth").write_text("import flywheel_torch\n")
    check = subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__, torch.ones(2).sum().item())"],
                           capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if check.returncode != 0:
        sys.exit(f"torch does not import:\n{check.stderr}")
    print(check.stdout.strip())


if __name__ == "__main__":
    main()
