dnl Our own configure checks. SPDX-License-Identifier: MIT

dnl CLAAS_WARNINGS: the warnings of the house style; errors only with --enable-werror (CI).
AC_DEFUN([CLAAS_WARNINGS], [
  AC_ARG_ENABLE([werror], [AS_HELP_STRING([--enable-werror], [warnings are errors])],
    [], [enable_werror=no])
  WARN_CFLAGS="-Wall -Wextra -Wshadow -Wvla -Wmissing-prototypes -Wstrict-prototypes -Wformat=2 -Wpointer-arith -Wwrite-strings"
  AS_IF([test "x$enable_werror" = xyes], [WARN_CFLAGS="$WARN_CFLAGS -Werror"])
  AC_SUBST([WARN_CFLAGS])])

dnl CLAAS_SANITIZERS: --enable-sanitizers=address,undefined or thread. Plugins then link without -z defs,
dnl because the runtime is in the program; a self test proves that a leak or race detector really runs.
AC_DEFUN([CLAAS_SANITIZERS], [
  AC_ARG_ENABLE([sanitizers],
    [AS_HELP_STRING([--enable-sanitizers=LIST], [address,undefined or thread])],
    [], [enable_sanitizers=no])
  claas_sanitizers=
  NO_UNDEFINED="-Wl,-z,defs"
  AS_CASE([$enable_sanitizers],
    [no], [],
    [yes], [claas_sanitizers=address,undefined],
    [claas_sanitizers=$enable_sanitizers])
  AS_IF([test -n "$claas_sanitizers"], [
    SAN_CFLAGS="-fsanitize=$claas_sanitizers -fno-sanitize-recover=all -fno-omit-frame-pointer"
    NO_UNDEFINED=
    save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS $SAN_CFLAGS"
    AC_MSG_CHECKING([whether -fsanitize=$claas_sanitizers works])
    AC_RUN_IFELSE([AC_LANG_PROGRAM([], [])], [AC_MSG_RESULT([yes])],
      [AC_MSG_RESULT([no]); AC_MSG_ERROR([the compiler cannot run programs with -fsanitize=$claas_sanitizers])],
      [AC_MSG_RESULT([cross compiling, not tried])])
    CFLAGS=$save_CFLAGS])
  AM_CONDITIONAL([SANITIZERS], [test -n "$claas_sanitizers"])
  AC_SUBST([claas_sanitizers])
  AC_SUBST([SAN_CFLAGS])
  AC_SUBST([NO_UNDEFINED])])

dnl CLAAS_CUDA: --with-cuda=auto|yes|no|DIR. Finds nvcc and the runtime; the kernels come with their own issue.
AC_DEFUN([CLAAS_CUDA], [
  AC_ARG_VAR([NVCC], [CUDA compiler])
  AC_ARG_VAR([NVCCFLAGS], [flags for the CUDA compiler])
  AC_ARG_WITH([cuda],
    [AS_HELP_STRING([--with-cuda=auto|yes|no|DIR], [CUDA toolkit to build cuda.so with @<:@auto@:>@])],
    [], [with_cuda=auto])
  claas_cuda=no
  AS_CASE([$with_cuda],
    [no], [claas_cuda_why="off (--with-cuda=no)"],
    [auto|yes], [AC_PATH_PROG([NVCC], [nvcc], [no], [$PATH:/usr/local/cuda/bin])],
    [AC_PATH_PROG([NVCC], [nvcc], [no], [$with_cuda/bin])])
  AS_IF([test "x$with_cuda" != xno], [
    AS_IF([test "x$NVCC" != xno && test -n "$NVCC"],
      [claas_cuda=yes
       claas_cuda_why="$NVCC found; this version has no CUDA kernels yet, so nothing is built with it"],
      [claas_cuda_why="off (no nvcc)"
       AS_IF([test "x$with_cuda" != xauto], [AC_MSG_ERROR([--with-cuda=$with_cuda asked for, but no nvcc found])])])])
  AM_CONDITIONAL([CUDA], [test "x$claas_cuda" = xyes])])
