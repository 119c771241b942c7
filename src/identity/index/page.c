/*-------------------------------------------------------------------------
 *
 * page.c
 *	  Entries on a page of an identity_graph index.
 *
 *	  A page of a bucket never shifts what it holds: an entry is appended and
 *	  linked into the list of its slot, or the last entry takes the place of
 *	  one that goes.  So the record of a change is some dozens of bytes.
 *
 *	  What is read from a page is checked before it is used as a subscript: a
 *	  damaged page is an error, not a wild read.
 *
 * IDENTIFICATION
 *	  src/identity/index/page.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "identity/index/graph_index.h"

#define PageSlots(page) ((uint16 *) PageGetContents(page))
#define PageEntries(page) (PageGetContents(page) + CDPG_SLOTS_SIZE)
#define PageHubs(page) ((CdpgHubEntry *) PageGetContents(page))

#define IsWide(page) ((CdpgPageOpaque(page)->flags & CDPG_WIDE) != 0)
#define IsHub(page) ((CdpgPageOpaque(page)->flags & CDPG_HUB) != 0)

static inline int
entry_size(Page page)
{
	return IsHub(page) ? sizeof(CdpgHubEntry) :
		IsWide(page) ? sizeof(CdpgWideEntry) : sizeof(CdpgShortEntry);
}

static inline int
page_count(Page page)
{
	int			base = PageGetContents(page) - (char *) page;

	if (!IsHub(page))
		base += CDPG_SLOTS_SIZE;
	return (((PageHeader) page)->pd_lower - base) / entry_size(page);
}

static inline int
page_max(Page page)
{
	return IsHub(page) ? CDPG_MAX_HUB : IsWide(page) ? CDPG_MAX_WIDE : CDPG_MAX_SHORT;
}

static inline void
set_count(Page page, int n)
{
	int			base = PageGetContents(page) - (char *) page;

	if (!IsHub(page))
		base += CDPG_SLOTS_SIZE;
	((PageHeader) page)->pd_lower = base + n * entry_size(page);
}

static inline CdpgShortEntry *
short_entry(Page page, int i)
{
	return (CdpgShortEntry *) PageEntries(page) + (i - 1);
}

static inline CdpgWideEntry *
wide_entry(Page page, int i)
{
	return (CdpgWideEntry *) PageEntries(page) + (i - 1);
}

static inline uint32
get32(const uint16 *w)
{
	return (uint32) w[0] | (uint32) w[1] << 16;
}

static inline uint64
get64(const uint16 *w)
{
	return (uint64) get32(w) | (uint64) get32(w + 2) << 32;
}

static inline void
put32(uint16 *w, uint32 value)
{
	w[0] = (uint16) value;
	w[1] = (uint16) (value >> 16);
}

static inline void
put64(uint16 *w, uint64 value)
{
	put32(w, (uint32) value);
	put32(w + 2, (uint32) (value >> 32));
}

void
CdpgReportCorrupt(Relation index, Buffer buffer, const char *what)
{
	XLogRecPtr	lsn = PageGetLSN(BufferGetPage(buffer));

	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("index \"%s\" is damaged: %s",
					RelationGetRelationName(index), what),
			 errdetail_internal("Index block=%u, page lsn=%X/%X.",
								BufferGetBlockNumber(buffer),
								LSN_FORMAT_ARGS(lsn)),
			 errhint("Please REINDEX it.")));
}

/*
 * An empty page of a bucket, of any kind but a hub's.
 */
void
CdpgPageInit(Page page, uint16 flags, uint32 bucket, uint32 stamp)
{
	CdpgOpaque	opaque;

	PageInit(page, BLCKSZ, sizeof(CdpgOpaqueData));
	opaque = CdpgPageOpaque(page);
	opaque->bucket = bucket;
	opaque->stamp = stamp;
	opaque->next = InvalidBlockNumber;
	opaque->flags = flags;
	opaque->page_id = CDPG_PAGE_ID;
	if (flags & (CDPG_PRIMARY | CDPG_OVERFLOW))
		set_count(page, 0);
}

void
CdpgHubPageInit(Page page, int64 node)
{
	CdpgPageInit(page, CDPG_HUB, (uint32) node, (uint32) ((uint64) node >> 32));
	set_count(page, 0);
}

int64
CdpgHubNode(Page page)
{
	CdpgOpaque	opaque = CdpgPageOpaque(page);

	return (int64) ((uint64) opaque->bucket | (uint64) opaque->stamp << 32);
}

/*
 * How many entries a page has, checked.
 */
int
CdpgPageCount(Relation index, Buffer buffer, Page page)
{
	int			n = page_count(page);

	if (n < 0 || n > page_max(page))
		CdpgReportCorrupt(index, buffer, "impossible number of entries");
	return n;
}

/*
 * Entry number i, from 1.
 */
void
CdpgPageGet(Page page, int i, CdpgEntry *entry)
{
	uint16		offset;

	if (IsWide(page))
	{
		CdpgWideEntry *e = wide_entry(page, i);

		entry->node = (int64) get64(e->node);
		entry->other = (int64) get64(e->other);
		entry->block = get32(e->block);
		offset = e->offset;
	}
	else
	{
		CdpgShortEntry *e = short_entry(page, i);

		entry->node = (int64) ((uint64) get32(e->node) | (uint64) e->node_high << 32);
		entry->other = (int64) ((uint64) get32(e->other) | (uint64) e->other_high << 32);
		entry->block = get32(e->block);
		offset = e->offset;
	}
	entry->offset = offset & CDPG_OFFSET_MASK;
	entry->flags = offset & ~CDPG_OFFSET_MASK;
}

static inline bool
is_short(const CdpgEntry *entry)
{
	return CdpgFitsShort(entry->node) && CdpgFitsShort(entry->other);
}

/*
 * An empty page takes the form of the first entry.
 */
bool
CdpgPageFits(Page page, const CdpgEntry *entry)
{
	int			n = page_count(page);

	if (n == 0)
		return true;
	/* a wide page takes short entries too */
	return n < page_max(page) && (IsWide(page) || is_short(entry));
}

/*
 * Whether there is room for two entries; on an empty page the first one
 * decides on the form.
 */
bool
CdpgPageFitsBoth(Page page, const CdpgEntry *x, const CdpgEntry *y)
{
	int			n = page_count(page);

	if (n == 0)
		return !is_short(x) || is_short(y);
	return n + 2 <= page_max(page) && CdpgPageFits(page, x) && CdpgPageFits(page, y);
}

/*
 * Append an entry for which there is room, in the form of the page.
 */
static void
append(Page page, const CdpgEntry *entry)
{
	int			n = page_count(page) + 1;
	uint16	   *head = &PageSlots(page)[CdpgSlot(CdpgHash(entry->node))];

	if (IsWide(page))
	{
		CdpgWideEntry *e = wide_entry(page, n);

		put64(e->node, entry->node);
		put64(e->other, entry->other);
		put32(e->block, entry->block);
		e->offset = entry->offset | entry->flags;
		e->next = *head;
	}
	else
	{
		CdpgShortEntry *e = short_entry(page, n);

		put32(e->node, (uint32) entry->node);
		put32(e->other, (uint32) entry->other);
		put32(e->block, entry->block);
		e->offset = entry->offset | entry->flags;
		e->next = *head;
		e->node_high = (uint8) ((uint64) entry->node >> 32);
		e->other_high = (uint8) ((uint64) entry->other >> 32);
	}
	*head = n;
	set_count(page, n);
}

/*
 * Put an entry on a page; false when there is no room, or not of its form.
 */
bool
CdpgPageAdd(Page page, const CdpgEntry *entry)
{
	if (!CdpgPageFits(page, entry))
		return false;
	if (page_count(page) == 0)
	{
		if (is_short(entry))
			CdpgPageOpaque(page)->flags &= ~CDPG_WIDE;
		else
			CdpgPageOpaque(page)->flags |= CDPG_WIDE;
	}
	append(page, entry);
	return true;
}

/*
 * Put the entries of a page in the order of their slots, so that a list is in
 * one or two lines of memory.
 */
void
CdpgPageArrange(Page page)
{
	int			n = page_count(page);
	CdpgEntry  *entries = palloc(sizeof(CdpgEntry) * Max(n, 1));
	int			slot;
	int			i;
	int			done = 0;

	for (slot = 0; slot < CDPG_SLOTS; slot++)
	{
		for (i = PageSlots(page)[slot]; i != 0; i = CdpgPageNext(page, i))
			CdpgPageGet(page, i, &entries[done++]);
	}
	Assert(done == n);
	memset(PageSlots(page), 0, CDPG_SLOTS_SIZE);
	set_count(page, 0);
	for (i = 0; i < n; i++)
		append(page, &entries[i]);
	pfree(entries);
}

/*
 * The first entry of the slot of a hash, 0 if none.
 */
int
CdpgPageFirst(Page page, uint64 hash)
{
	return PageSlots(page)[CdpgSlot(hash)];
}

int
CdpgPageNext(Page page, int i)
{
	return IsWide(page) ? wide_entry(page, i)->next : short_entry(page, i)->next;
}

/*
 * What points at entry i.  The list is followed no longer than a page has
 * entries, should it be damaged.
 */
static uint16 *
pointer_to(Page page, int i)
{
	CdpgEntry	entry;
	uint16	   *pointer;
	int			left = page_max(page);

	CdpgPageGet(page, i, &entry);
	pointer = &PageSlots(page)[CdpgSlot(CdpgHash(entry.node))];
	while (*pointer != i)
	{
		if (*pointer == 0 || *pointer > page_count(page) || left-- == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INDEX_CORRUPTED),
					 errmsg("entry %d of an identity_graph page is in no list", i),
					 errhint("Please REINDEX the index.")));
		pointer = IsWide(page) ? &wide_entry(page, *pointer)->next :
			&short_entry(page, *pointer)->next;
	}
	return pointer;
}

/*
 * Take entry i from the page; the last one gets its number.
 */
void
CdpgPageRemove(Page page, int i)
{
	int			n = page_count(page);

	*pointer_to(page, i) = CdpgPageNext(page, i);
	if (i != n)
	{
		*pointer_to(page, n) = i;
		if (IsWide(page))
			*wide_entry(page, i) = *wide_entry(page, n);
		else
			*short_entry(page, i) = *short_entry(page, n);
	}
	set_count(page, n - 1);
}

/*
 * Let a hub's entry point at another head of its chain.
 */
void
CdpgPageSetBlock(Page page, int i, BlockNumber block)
{
	if (IsWide(page))
		put32(wide_entry(page, i)->block, block);
	else
		put32(short_entry(page, i)->block, block);
}

/*
 * The entries of a node on a page, without hubs.
 */
int
CdpgPageCountNode(Relation index, Buffer buffer, int64 node)
{
	Page		page = BufferGetPage(buffer);
	int			n = CdpgPageCount(index, buffer, page);
	int			left = n;
	int			count = 0;
	int			i;

	for (i = CdpgPageFirst(page, CdpgHash(node)); i != 0; i = CdpgPageNext(page, i))
	{
		CdpgEntry	entry;

		if (i > n || left-- == 0)
			CdpgReportCorrupt(index, buffer, "broken list of entries");
		CdpgPageGet(page, i, &entry);
		if (entry.node == node && (entry.flags & (CDPG_IS_HUB | CDPG_NODE_NULL)) == 0)
			count++;
	}
	return count;
}

/*
 * The number of the entry that says that a node is a hub; 0 if none.
 */
int
CdpgPageFindHub(Relation index, Buffer buffer, int64 node)
{
	Page		page = BufferGetPage(buffer);
	int			n = CdpgPageCount(index, buffer, page);
	int			left = n;
	int			i;

	for (i = CdpgPageFirst(page, CdpgHash(node)); i != 0; i = CdpgPageNext(page, i))
	{
		CdpgEntry	entry;

		if (i > n || left-- == 0)
			CdpgReportCorrupt(index, buffer, "broken list of entries");
		CdpgPageGet(page, i, &entry);
		if (entry.node == node && (entry.flags & CDPG_IS_HUB) != 0)
			return i;
	}
	return 0;
}

void
CdpgHubGet(Page page, int i, CdpgEntry *entry)
{
	CdpgHubEntry *e = PageHubs(page) + (i - 1);

	entry->node = CdpgHubNode(page);
	entry->other = (int64) get64(e->other);
	entry->block = get32(e->block);
	entry->offset = e->offset & CDPG_OFFSET_MASK;
	entry->flags = e->offset & ~CDPG_OFFSET_MASK;
}

void
CdpgHubSet(Page page, int i, const CdpgEntry *entry)
{
	CdpgHubEntry *e = PageHubs(page) + (i - 1);

	put64(e->other, (uint64) entry->other);
	put32(e->block, entry->block);
	e->offset = entry->offset | entry->flags;
}

/*
 * Append to a hub's page; the caller has looked that there is room.
 */
void
CdpgHubAdd(Page page, const CdpgEntry *entry)
{
	int			n = page_count(page) + 1;

	Assert(n <= CDPG_MAX_HUB);
	set_count(page, n);
	CdpgHubSet(page, n, entry);
}

void
CdpgHubTruncate(Page page, int n)
{
	set_count(page, n);
}
