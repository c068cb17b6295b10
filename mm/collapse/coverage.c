// SPDX-License-Identifier: GPL-2.0
/*
 * Tells which code of the engine ran since boot, on whatever CPU and for whatever
 * task: KCOV tells each task about itself only.
 *
 * The compiler has each block of code call __sanitizer_cov_trace_pc(). Where it was
 * called from is kept in a hash table that is never emptied.
 */
#include <linux/atomic.h>
#include <linux/bits.h>
#include <linux/dcache.h>
#include <linux/debugfs.h>
#include <linux/hash.h>
#include <linux/init.h>
#include <linux/seq_file.h>

#include <asm/sections.h>

#define SLOT_BITS	14
#define NR_SLOTS	BIT(SLOT_BITS)

static unsigned long callers[NR_SLOTS];

__diag_push();
__diag_ignore_all("-Wmissing-prototypes", "called by code that the compiler adds");

/* Called with any lock held. It must not call what is instrumented itself. */
noinstr void __sanitizer_cov_trace_pc(void)
{
	unsigned long caller = (unsigned long)__builtin_return_address(0);
	unsigned int slot = hash_long(caller, SLOT_BITS);

	/* There are more slots than callers. */
	for (;; slot = (slot + 1) % NR_SLOTS) {
		unsigned long old = READ_ONCE(callers[slot]);

		if (!old)
			old = arch_cmpxchg(&callers[slot], 0, caller);
		if (!old || old == caller)
			return;
	}
}

__diag_pop();

static int coverage_show(struct seq_file *m, void *v)
{
	for (unsigned int i = 0; i < NR_SLOTS; i++)
		if (callers[i])
			seq_printf(m, "%lx\n", callers[i] - (unsigned long)_stext);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(coverage);

/* After that of debug.c, which is linked first. */
static int __init collapse_coverage_init(void)
{
	struct dentry *dir = debugfs_lookup("thp_collapse", NULL);

	debugfs_create_file("coverage", 0400, dir, NULL, &coverage_fops);
	dput(dir);
	return 0;
}
late_initcall(collapse_coverage_init);
