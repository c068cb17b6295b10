// SPDX-License-Identifier: GPL-2.0
/*
 * Selects the engine that serves MADV_COLLAPSE, and the way it goes; stops
 * collapses between their passes, so that tests can act there; and has copies
 * meet bad memory, and counts of references find too many.
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/jump_label.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "../collapse.h"

DEFINE_STATIC_KEY_FALSE(collapse_engine_c);

static const char * const pass_names[] = {
	[COLLAPSE_PASS_NONE]	= "none",
	[COLLAPSE_PASS_SCAN]	= "scan",
	[COLLAPSE_PASS_PREALLOC]	= "prealloc",
	[COLLAPSE_PASS_FAULT_IN] = "fault_in",
	[COLLAPSE_PASS_REMAP]	= "remap",
	[COLLAPSE_PASS_PROTECT]	= "protect",
	[COLLAPSE_PASS_UNMAP]	= "unmap",
	[COLLAPSE_PASS_COPY]	= "copy",
	[COLLAPSE_PASS_SWITCH]	= "switch",
};

static enum collapse_pass hold_pass;
static atomic_t nr_held[ARRAY_SIZE(pass_names)];
static DECLARE_WAIT_QUEUE_HEAD(hold_wait);
static DEFINE_MUTEX(debug_mutex);

struct collapse_faults collapse_faults = {
	.armed = STATIC_KEY_FALSE_INIT,
};

/* Set if sources are replaced by migration entries, instead of protected. */
static bool unmaps_all;
/* Windows that are switched at a time; the engine's own choice if 0. */
static u32 per_switch;
/* Counts since boot, as the tracepoint of a batch has them. */
static atomic_t nr_recopied, nr_rounds, nr_old_way, nr_remapped;

/* Called by a collapse after each pass. It may hold locks that can sleep. */
void collapse_debug_hold(enum collapse_pass pass)
{
	if (READ_ONCE(hold_pass) != pass)
		return;

	atomic_inc(&nr_held[pass]);
	/* Killed or not, the collapse goes on: it has locks to give up. */
	(void)wait_event_killable(hold_wait, READ_ONCE(hold_pass) != pass);
	atomic_dec(&nr_held[pass]);
}

/* Whether a copy shall be taken for one that met bad memory. */
bool collapse_debug_fail_copy(void)
{
	return atomic_dec_if_positive(&collapse_faults.bad_copy) == 0;
}

bool collapse_debug_fail_count(void)
{
	return atomic_dec_if_positive(&collapse_faults.bad_count) == 0;
}

bool collapse_debug_unmaps_all(void)
{
	return READ_ONCE(unmaps_all);
}

unsigned int collapse_debug_per_switch(void)
{
	return READ_ONCE(per_switch);
}

void collapse_debug_count_work(unsigned int recopied, unsigned int rounds,
			       unsigned int old_way, unsigned int remapped)
{
	atomic_add(recopied, &nr_recopied);
	atomic_add(rounds, &nr_rounds);
	atomic_add(old_way, &nr_old_way);
	atomic_add(remapped, &nr_remapped);
}

static int engine_show(struct seq_file *m, void *v)
{
	seq_puts(m, static_key_enabled(&collapse_engine_c) ? "c\n" : "rust\n");
	return 0;
}

static ssize_t get_word(char *word, size_t size, const char __user *buf,
			size_t count)
{
	if (count >= size)
		return -EINVAL;
	if (copy_from_user(word, buf, count))
		return -EFAULT;
	word[count] = '\0';
	return 0;
}

static ssize_t engine_write(struct file *file, const char __user *buf,
			    size_t count, loff_t *ppos)
{
	char word[16];
	ssize_t ret = get_word(word, sizeof(word), buf, count);

	if (ret)
		return ret;

	guard(mutex)(&debug_mutex);
	if (sysfs_streq(word, "c"))
		static_branch_enable(&collapse_engine_c);
	else if (sysfs_streq(word, "rust"))
		static_branch_disable(&collapse_engine_c);
	else
		return -EINVAL;
	return count;
}

DEFINE_SHOW_STORE_ATTRIBUTE(engine);

static int hold_show(struct seq_file *m, void *v)
{
	enum collapse_pass pass = READ_ONCE(hold_pass);

	seq_printf(m, "%s %d\n", pass_names[pass], atomic_read(&nr_held[pass]));
	return 0;
}

static ssize_t hold_write(struct file *file, const char __user *buf,
			  size_t count, loff_t *ppos)
{
	char word[16];
	ssize_t ret = get_word(word, sizeof(word), buf, count);
	int pass;

	if (ret)
		return ret;

	pass = sysfs_match_string(pass_names, word);
	if (pass < 0)
		return pass;

	WRITE_ONCE(hold_pass, pass);
	wake_up_all(&hold_wait);
	return count;
}

DEFINE_SHOW_STORE_ATTRIBUTE(hold);

static int way_show(struct seq_file *m, void *v)
{
	seq_puts(m, collapse_debug_unmaps_all() ? "unmap\n" : "protect\n");
	return 0;
}

static ssize_t way_write(struct file *file, const char __user *buf,
			 size_t count, loff_t *ppos)
{
	char word[16];
	ssize_t ret = get_word(word, sizeof(word), buf, count);

	if (ret)
		return ret;

	if (sysfs_streq(word, "unmap"))
		WRITE_ONCE(unmaps_all, true);
	else if (sysfs_streq(word, "protect"))
		WRITE_ONCE(unmaps_all, false);
	else
		return -EINVAL;
	return count;
}

DEFINE_SHOW_STORE_ATTRIBUTE(way);

static int fault_get(void *nth, u64 *value)
{
	*value = atomic_read(nth);
	return 0;
}

static int fault_set(void *nth, u64 value)
{
	if (value > INT_MAX)
		return -EINVAL;

	atomic_set(nth, value);
	guard(mutex)(&debug_mutex);
	static_branch_enable(&collapse_faults.armed);
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(fault_fops, fault_get, fault_set, "%llu\n");

static int __init collapse_debug_init(void)
{
	struct dentry *dir = debugfs_create_dir("thp_collapse", NULL);

	debugfs_create_file("engine", 0600, dir, NULL, &engine_fops);
	debugfs_create_file("hold", 0600, dir, NULL, &hold_fops);
	debugfs_create_file("way", 0600, dir, NULL, &way_fops);
	debugfs_create_file_unsafe("bad_copy", 0600, dir,
				   &collapse_faults.bad_copy, &fault_fops);
	debugfs_create_file_unsafe("bad_count", 0600, dir,
				   &collapse_faults.bad_count, &fault_fops);
	debugfs_create_u32("per_switch", 0600, dir, &per_switch);
	debugfs_create_atomic_t("recopied", 0400, dir, &nr_recopied);
	debugfs_create_atomic_t("rounds", 0400, dir, &nr_rounds);
	debugfs_create_atomic_t("old_way", 0400, dir, &nr_old_way);
	debugfs_create_atomic_t("remapped", 0400, dir, &nr_remapped);
	return 0;
}
late_initcall(collapse_debug_init);
