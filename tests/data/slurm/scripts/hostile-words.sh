#!/bin/bash
unset SLURM_BITSTR_LEN SLURM_EXPORT_ENV SLURM_GET_USER_ENV SLURM_TIME_FORMAT
export TEXT=$'a\015\012b\011\'\\c\' \0337'
export TIMESHARE_GENERATION=$((1 + ${SLURM_RESTART_COUNT:-0}))
cd -- '/home/ada/-x $HOME' || exit 2
exec -- '/opt/it'"'"'s/python' -c $'$(id); `id`\012#SBATCH --qos=root' <<'END_'
END
#SBATCH --qos=root
$(id)
END_
