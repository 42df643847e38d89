#!/bin/bash
unset SLURM_BITSTR_LEN SLURM_EXPORT_ENV SLURM_GET_USER_ENV SLURM_TIME_FORMAT
export TIMESHARE_RESERVATION_ID=5f0c3f2e-8a9b-4c53-9e0a-0a3b8f1f4a11
export TIMESHARE_SERVICE='http://hub:8080/?a=1&b=2'
export TIMESHARE_GENERATION=$((1 + ${SLURM_RESTART_COUNT:-0}))
cd -- /home/ada || exit 2
exec -- /opt/env/bin/python -m timeshare.reservations.jobagent <<'END'
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
END
