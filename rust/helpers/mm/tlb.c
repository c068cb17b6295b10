// SPDX-License-Identifier: GPL-2.0

#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <asm/tlbflush.h>

__rust_helper void rust_helper_flush_tlb_range(struct vm_area_struct *vma,
					       unsigned long start,
					       unsigned long end)
{
	flush_tlb_range(vma, start, end);
}

__rust_helper void rust_helper_inc_tlb_flush_pending(struct mm_struct *mm)
{
	inc_tlb_flush_pending(mm);
}

__rust_helper void rust_helper_dec_tlb_flush_pending(struct mm_struct *mm)
{
	dec_tlb_flush_pending(mm);
}
