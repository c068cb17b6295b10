// SPDX-License-Identifier: GPL-2.0

#include <linux/leafops.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pgalloc.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/rmap.h>
#include <linux/spinlock.h>
#include <../../mm/internal.h>

__rust_helper pte_t rust_helper_ptep_get(pte_t *ptep)
{
	return ptep_get(ptep);
}

__rust_helper pte_t rust_helper_ptep_get_and_clear(struct mm_struct *mm,
						   unsigned long addr,
						   pte_t *ptep)
{
	return ptep_get_and_clear(mm, addr, ptep);
}

__rust_helper void rust_helper_ptep_set_wrprotect(struct mm_struct *mm,
						  unsigned long addr,
						  pte_t *ptep)
{
	ptep_set_wrprotect(mm, addr, ptep);
}

/* Read-only, but accessible, where NUMA balancing has taken access away. */
__rust_helper void rust_helper_ptep_make_readable(struct vm_area_struct *vma,
						  unsigned long addr,
						  pte_t *ptep)
{
	pte_t old = ptep_modify_prot_start(vma, addr, ptep);
	pte_t pte = pte_wrprotect(pte_modify(old, vma->vm_page_prot));

	ptep_modify_prot_commit(vma, addr, ptep, old, pte);
}

__rust_helper void rust_helper_ptep_clear(struct mm_struct *mm,
					  unsigned long addr, pte_t *ptep)
{
	ptep_clear(mm, addr, ptep);
}

__rust_helper void rust_helper_set_pte_at(struct mm_struct *mm,
					  unsigned long addr, pte_t *ptep,
					  pte_t pte)
{
	set_pte_at(mm, addr, ptep, pte);
}

__rust_helper void rust_helper_pte_unmap(pte_t *pte)
{
	pte_unmap(pte);
}

__rust_helper bool rust_helper_pte_none(pte_t pte)
{
	return pte_none(pte);
}

__rust_helper bool rust_helper_pte_protnone(pte_t pte)
{
	return pte_protnone(pte);
}

__rust_helper bool rust_helper_pte_present(pte_t pte)
{
	return pte_present(pte);
}

__rust_helper bool rust_helper_pte_special(pte_t pte)
{
	return pte_special(pte);
}

__rust_helper bool rust_helper_pte_write(pte_t pte)
{
	return pte_write(pte);
}

__rust_helper pte_t rust_helper_pte_next_pfn(pte_t pte)
{
	return pte_next_pfn(pte);
}

__rust_helper bool rust_helper_pte_young(pte_t pte)
{
	return pte_young(pte);
}

__rust_helper bool rust_helper_pte_dirty(pte_t pte)
{
	return pte_dirty(pte);
}

__rust_helper bool rust_helper_pte_soft_dirty(pte_t pte)
{
	return pte_soft_dirty(pte);
}

__rust_helper bool rust_helper_pte_uffd(pte_t pte)
{
	return pte_uffd(pte);
}

__rust_helper bool rust_helper_pte_swp_soft_dirty(pte_t pte)
{
	return pte_swp_soft_dirty(pte);
}

__rust_helper pte_t rust_helper_pte_swp_mksoft_dirty(pte_t pte)
{
	return pte_swp_mksoft_dirty(pte);
}

__rust_helper bool rust_helper_pte_swp_uffd_any(pte_t pte)
{
	return pte_swp_uffd_any(pte);
}

__rust_helper bool rust_helper_pte_swp_uffd(pte_t pte)
{
	return pte_swp_uffd(pte);
}

__rust_helper unsigned long rust_helper_pte_pfn(pte_t pte)
{
	return pte_pfn(pte);
}

__rust_helper bool rust_helper_is_zero_pfn(unsigned long pfn)
{
	return is_zero_pfn(pfn);
}

__rust_helper pte_t rust_helper_mk_pte(struct page *page, pgprot_t prot)
{
	return mk_pte(page, prot);
}

__rust_helper pte_t rust_helper_pte_mkold(pte_t pte)
{
	return pte_mkold(pte);
}

__rust_helper pte_t rust_helper_pte_mkdirty(pte_t pte)
{
	return pte_mkdirty(pte);
}

__rust_helper pte_t rust_helper_pte_mkwrite(pte_t pte,
					    struct vm_area_struct *vma)
{
	return pte_mkwrite(pte, vma);
}

__rust_helper pte_t rust_helper_pte_mkuffd(pte_t pte)
{
	return pte_mkuffd(pte);
}

__rust_helper pte_t rust_helper_pte_mksoft_dirty(pte_t pte)
{
	return pte_mksoft_dirty(pte);
}

__rust_helper pte_t rust_helper_pte_clear_soft_dirty(pte_t pte)
{
	return pte_clear_soft_dirty(pte);
}

__rust_helper pte_t rust_helper_pte_mkprotnone(pte_t pte)
{
	return pte_modify(pte, PAGE_NONE);
}

__rust_helper softleaf_t rust_helper_softleaf_from_pte(pte_t pte)
{
	return softleaf_from_pte(pte);
}

__rust_helper pte_t rust_helper_softleaf_to_pte(softleaf_t entry)
{
	return softleaf_to_pte(entry);
}

__rust_helper enum softleaf_type rust_helper_softleaf_type(softleaf_t entry)
{
	return softleaf_type(entry);
}

__rust_helper unsigned long rust_helper_softleaf_to_pfn(softleaf_t entry)
{
	return softleaf_to_pfn(entry);
}

__rust_helper softleaf_t
rust_helper_make_readable_migration_entry(unsigned long pfn)
{
	return make_readable_migration_entry(pfn);
}

__rust_helper softleaf_t
rust_helper_make_readable_exclusive_migration_entry(unsigned long pfn)
{
	return make_readable_exclusive_migration_entry(pfn);
}

__rust_helper softleaf_t
rust_helper_make_writable_migration_entry(unsigned long pfn)
{
	return make_writable_migration_entry(pfn);
}

__rust_helper softleaf_t rust_helper_make_migration_entry_young(softleaf_t entry)
{
	return make_migration_entry_young(entry);
}

__rust_helper softleaf_t rust_helper_make_migration_entry_dirty(softleaf_t entry)
{
	return make_migration_entry_dirty(entry);
}

__rust_helper bool rust_helper_softleaf_is_migration_young(softleaf_t entry)
{
	return softleaf_is_migration_young(entry);
}

__rust_helper bool rust_helper_softleaf_is_migration_dirty(softleaf_t entry)
{
	return softleaf_is_migration_dirty(entry);
}

__rust_helper pmd_t rust_helper_pmdp_get_lockless(pmd_t *pmdp)
{
	return pmdp_get_lockless(pmdp);
}

__rust_helper bool rust_helper_pmd_none(pmd_t pmd)
{
	return pmd_none(pmd);
}

__rust_helper bool rust_helper_pmd_present(pmd_t pmd)
{
	return pmd_present(pmd);
}

__rust_helper bool rust_helper_pmd_trans_huge(pmd_t pmd)
{
	return pmd_trans_huge(pmd);
}

/* Whether a huge entry was made invalid, to be replaced or made valid again. */
__rust_helper bool rust_helper_pmd_is_invalid(pmd_t pmd)
{
	return pmd_same(pmd, pmd_mkinvalid(pmd));
}

__rust_helper bool rust_helper_pmd_bad(pmd_t pmd)
{
	return pmd_bad(pmd);
}

__rust_helper bool rust_helper_pmd_is_migration_entry(pmd_t pmd)
{
	return pmd_is_migration_entry(pmd);
}

__rust_helper pgtable_t rust_helper_pmd_pgtable(pmd_t pmd)
{
	return pmd_pgtable(pmd);
}

__rust_helper spinlock_t *rust_helper_pmd_lockptr(struct mm_struct *mm,
						  pmd_t *pmd)
{
	return pmd_lockptr(mm, pmd);
}

/* The lock of a table that no PMD entry maps. */
__rust_helper spinlock_t *rust_helper_pgtable_lockptr(struct mm_struct *mm,
						      pgtable_t table)
{
#ifdef CONFIG_SPLIT_PTE_PTLOCKS
	return ptlock_ptr(page_ptdesc(table));
#else
	return &mm->page_table_lock;
#endif
}

/*
 * The PMD entry of an address, or NULL if it has none. Like mm_find_pmd(), but
 * copes with any mapping: a leaf above the PMD level leads to no PMD entry.
 */
__rust_helper pmd_t *rust_helper_find_pmd(struct mm_struct *mm,
					  unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pudp, pud;

	if (!pgd_present(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (!p4d_present(*p4d))
		return NULL;
	pudp = pud_offset(p4d, addr);
	pud = READ_ONCE(*pudp);
	if (!pud_present(pud) || pud_leaf(pud))
		return NULL;
	return pmd_offset_lockless(pudp, pud, addr);
}

/* Maps the table of a PMD entry's value, as pte_offset_map() does that of a PMD entry. */
__rust_helper pte_t *rust_helper_pte_map_of(pmd_t pmd, unsigned long addr)
{
	rcu_read_lock();
	return __pte_map(&pmd, addr);
}

__rust_helper void rust_helper_pmd_populate(struct mm_struct *mm, pmd_t *pmd,
					    pgtable_t table)
{
	pmd_populate(mm, pmd, table);
}

__rust_helper void rust_helper_spin_lock_nested(spinlock_t *lock, int subclass)
{
	spin_lock_nested(lock, subclass);
}

/* The invalid huge PMD that stands in while the old translations go. */
__rust_helper pmd_t rust_helper_pmdp_establish_invalid(struct vm_area_struct *vma,
						       unsigned long addr,
						       pmd_t *pmdp,
						       struct folio *folio)
{
	pmd_t pmd = folio_mk_pmd(folio, vma->vm_page_prot);

	return pmdp_establish(vma, addr, pmdp, pmd_mkinvalid(pmd));
}

/*
 * A huge PMD for a folio whose pages were mapped by PTEs. The counterpart of
 * __split_huge_pmd_locked(), but for the rmaps and references of the PTEs.
 */
__rust_helper void rust_helper_map_anon_folio_pmd_again(
	struct folio *folio, pmd_t *pmdp, struct vm_area_struct *vma,
	unsigned long addr, bool young, bool dirty, bool soft_dirty)
{
	pmd_t pmd = folio_mk_pmd(folio, vma->vm_page_prot);

	/* To make it dirty makes it soft-dirty too, on some architectures. */
	if (dirty)
		pmd = pmd_mkdirty(pmd);
	pmd = soft_dirty ? pmd_mksoft_dirty(pmd) : pmd_clear_soft_dirty(pmd);
	if (!young)
		pmd = pmd_mkold(pmd);
	if ((vma->vm_flags & VM_WRITE) && !pmd_needs_soft_dirty_wp(vma, pmd))
		pmd = pmd_mkwrite(pmd, vma);

	folio_add_anon_rmap_pmd(folio, &folio->page, vma, addr, RMAP_EXCLUSIVE);
	set_pmd_at(vma->vm_mm, addr, pmdp, pmd);
	update_mmu_cache_pmd(vma, addr, pmdp);
}

/*
 * A PTE table for any mm, charged to its memory cgroup. For the mm of another
 * process the charge may fail, but does not invoke the OOM killer there.
 */
__rust_helper pgtable_t rust_helper_pte_alloc_one_for(struct mm_struct *mm)
{
	const gfp_t gfp = GFP_PGTABLE_USER | __GFP_NORETRY | __GFP_NOWARN;
	struct mem_cgroup *memcg, *old;
	pgtable_t table;

	if (mm == current->mm)
		return pte_alloc_one(mm);

	memcg = get_mem_cgroup_from_mm(mm);
	old = set_active_memcg(memcg);
	table = __pte_alloc_one(mm, gfp);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	return table;
}

__rust_helper void rust_helper_pte_free(struct mm_struct *mm, pgtable_t table)
{
	pte_free(mm, table);
}
