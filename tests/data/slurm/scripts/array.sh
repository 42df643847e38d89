#!/bin/bash
unset SLURM_BITSTR_LEN SLURM_EXPORT_ENV SLURM_GET_USER_ENV SLURM_TIME_FORMAT
export PATH=/opt/env/bin:/usr/bin
case "$SLURM_ARRAY_TASK_ID" in
0)
export TIMESHARE_RESERVATION_ID=5f0c3f2e-8a9b-4c53-9e0a-0a3b8f1f4a10
export TIMESHARE_GENERATION=$((2 + ${SLURM_RESTART_COUNT:-0}))
cd -- '/home/ada/.local/share/timeshare/jobs/it'"'"'s 0' || exit 2
exec -- /opt/env/bin/python -m timeshare.notebooks.runner '/home/ada/.local/share/timeshare/jobs/it'"'"'s 0' --digest 0000000000000000000000000000000000000000000000000000000000000000 --key-stdin <<'END'
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
END
;;
2)
export TIMESHARE_RESERVATION_ID=5f0c3f2e-8a9b-4c53-9e0a-0a3b8f1f4a12
export TIMESHARE_GENERATION=$((2 + ${SLURM_RESTART_COUNT:-0}))
cd -- '/home/ada/.local/share/timeshare/jobs/it'"'"'s 2' || exit 2
exec -- /opt/env/bin/python -m timeshare.notebooks.runner '/home/ada/.local/share/timeshare/jobs/it'"'"'s 2' --digest 0000000000000000000000000000000000000000000000000000000000000002 --key-stdin <<'END'
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
END
;;
5)
export TIMESHARE_RESERVATION_ID=5f0c3f2e-8a9b-4c53-9e0a-0a3b8f1f4a15
export TIMESHARE_GENERATION=$((2 + ${SLURM_RESTART_COUNT:-0}))
cd -- '/home/ada/.local/share/timeshare/jobs/it'"'"'s 5' || exit 2
exec -- /opt/env/bin/python -m timeshare.notebooks.runner '/home/ada/.local/share/timeshare/jobs/it'"'"'s 5' --digest 0000000000000000000000000000000000000000000000000000000000000005 --key-stdin <<'END'
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
END
;;
6)
export TIMESHARE_RESERVATION_ID=5f0c3f2e-8a9b-4c53-9e0a-0a3b8f1f4a16
export TIMESHARE_GENERATION=$((2 + ${SLURM_RESTART_COUNT:-0}))
cd -- '/home/ada/.local/share/timeshare/jobs/it'"'"'s 6' || exit 2
exec -- /opt/env/bin/python -m timeshare.notebooks.runner '/home/ada/.local/share/timeshare/jobs/it'"'"'s 6' --digest 0000000000000000000000000000000000000000000000000000000000000006 --key-stdin <<'END'
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
END
;;
7)
export TIMESHARE_RESERVATION_ID=5f0c3f2e-8a9b-4c53-9e0a-0a3b8f1f4a17
export TIMESHARE_GENERATION=$((2 + ${SLURM_RESTART_COUNT:-0}))
cd -- '/home/ada/.local/share/timeshare/jobs/it'"'"'s 7' || exit 2
exec -- /opt/env/bin/python -m timeshare.notebooks.runner '/home/ada/.local/share/timeshare/jobs/it'"'"'s 7' --digest 0000000000000000000000000000000000000000000000000000000000000007 --key-stdin <<'END'
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
END
;;
esac
echo "no task $SLURM_ARRAY_TASK_ID in this array" >&2
exit 2
