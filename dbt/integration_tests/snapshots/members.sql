{% snapshot members %}
{{ config(target_schema='analytics', unique_key='profile_id', strategy='check', check_cols=['traits']) }}
select profile_id, traits from {{ source('cdp', 'profiles') }}
{% endsnapshot %}
